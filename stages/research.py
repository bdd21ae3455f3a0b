"""Measure what docs/speed.md shows and no stage needs: variants, parts and layers of a step, and how its cost grows."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags, override
from stages.benchmark import add_step_flags

# Flags besides the shape of a step that each measurement reads.
READS = dict.fromkeys(("variants", "parts", "improvements", "ablation", "growth", "all"), ())
READS |= {"variants": ("compile",), "growth": ("dtype",), "all": ("compile",)}


def main() -> None:
    """Measure, print tables; --out writes the figures too."""
    flags = Flags(__doc__)
    flags.add_argument("--what", choices=READS, default="all", help="default: %(default)s, every one but growth")
    add_step_flags(flags, "of growth; the others time both")
    args = flags.parse_args()
    flags.check_files(args)
    for name in {"dtype", "compile"}.difference(READS[args.what]):
        if getattr(args, name):
            flags.error(f"--{name} does not change what --what {args.what} measures; leave it out")
    import pandas as pd

    from nanogpt.benchmark.settings import BenchmarkSettings
    from nanogpt.benchmark.training_speed import format_steps
    from nanogpt.hardware.processor import describe_processor
    from nanogpt.research.ablation import measure_ablation
    from nanogpt.research.growth import measure_growth
    from nanogpt.research.layers import measure_layers, measure_parts
    from nanogpt.research.training_variants import measure_variants
    from nanogpt.runtime import params
    from nanogpt.runtime.metrics_file import write_metrics

    def format_tables(figures: dict[str, dict]) -> str:
        return "\n\n".join(f"{name}\n{pd.DataFrame(table).round(2)}" for name, table in figures.items())

    measurements = {
        "variants": (measure_variants, format_steps),
        "parts": (measure_parts, format_tables),
        "improvements": (measure_layers, format_tables),
        "ablation": (measure_ablation, lambda figures: pd.DataFrame(figures).round(3).to_string()),
        "growth": (measure_growth, format_tables),
    }
    settings = override(params.load(benchmark=BenchmarkSettings).benchmark, args)
    print(describe_processor(), flush=True)
    figures = {}
    for what in [name for name in measurements if name != "growth"] if args.what == "all" else [args.what]:
        measure, format_table = measurements[what]
        figures[what] = measure(settings)
        print(f"{what}\n{format_table(figures[what])}\n", flush=True)
    if args.out:
        write_metrics(args.out, figures if args.what == "all" else figures[args.what])


if __name__ == "__main__":
    process.run_stage(main)
