"""Time training on this machine (metrics/benchmark.json), its parts, or how its cost grows."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags, override

WHAT = ("training", "variants", "parts", "improvements", "ablation", "growth", "all")


def main() -> None:
    """Measure, print the table, write the figures."""
    flags = Flags(__doc__)
    flags.add_argument(
        "--what", choices=WHAT, default="training", help="default: %(default)s; all: every one but growth"
    )
    flags.add_argument(
        "--dtype", choices=["auto", "float32", "bfloat16"], help="bfloat16 adds its variants, float32 not"
    )
    flags.add_argument("--compile", choices=["auto", "off"], help="off leaves compiled variants out")
    flags.add_argument("--batch-size", type=int, metavar="N", help="sequences a step")
    flags.add_argument("--block-size", type=int, metavar="N", help="tokens a sequence")
    flags.add_argument("--num-iters", type=int, metavar="N", help="timed steps of each variant")
    flags.add_output("--out", help="file to write (default: metrics/benchmark.json for training, none for others)")
    args = flags.parse_args()
    from nanogpt.hardware.cores import describe_processor
    from nanogpt.runtime.metrics_file import write_metrics
    from nanogpt.runtime.outputs import check_outputs

    if args.out:
        check_outputs({args.out: None}, overwrite=args.overwrite)
    print(describe_processor(), flush=True)
    figures = training_speed(args)
    if out := args.out or (args.what == "training" and "metrics/benchmark.json"):
        write_metrics(out, figures)


def training_speed(args) -> dict:
    """Steps of training, whole or in parts."""
    from nanogpt.benchmark import ablation, layers, scaling, step_parts, training_speed
    from nanogpt.benchmark.settings import BenchmarkSettings
    from nanogpt.runtime import params

    settings = override(params.load(benchmark=BenchmarkSettings).benchmark, args)
    measures = {
        "training": (training_speed.benchmark, training_speed.table),
        "variants": (training_speed.variants, training_speed.table),
        "parts": (step_parts.benchmark, step_parts.table),
        "improvements": (layers.benchmark, step_parts.table),
        "ablation": (ablation.benchmark, ablation.table),
        "growth": (scaling.benchmark, scaling.table),
    }
    figures = {}
    for what in [what for what in measures if what != "growth"] if args.what == "all" else [args.what]:
        measure, table = measures[what]
        found = measure(settings)
        print(table(found), flush=True)
        figures[what] = found
    if args.what == "training" and not args.out:
        training_speed.save_charts(figures["training"], "metrics")
    return figures if args.what == "all" else figures[args.what]


if __name__ == "__main__":
    process.run_stage(main)
