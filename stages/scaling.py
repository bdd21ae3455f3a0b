"""Measure training in several processes for docs/scaling.md: speed, curves, faults, slow links."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags

WHAT = ("speed", "curves", "faults", "links")
GROUPS = {"speed": "processes", "curves": "processes", "faults": "faults", "links": "local_steps"}


def main() -> None:
    """Measure, print; --out adds the figures to a file."""
    flags = Flags(__doc__)
    flags.add_argument("what", choices=WHAT)
    flags.add_argument("--kills", type=int, default=20, metavar="N", help="of faults (default: %(default)s)")
    flags.add_argument("--steps", type=int, metavar="N", help="of curves (default: 200) and of links (default: 240)")
    flags.add_output("--out", metavar="PATH.json", help="file to add the figures to")
    args = flags.parse_args()
    flags.check_files(args)
    import pandas as pd

    from nanogpt.benchmark.settings import BenchmarkSettings
    from nanogpt.hardware.processor import describe_processor
    from nanogpt.research.process_faults import measure_faults
    from nanogpt.research.processes import measure_curves, measure_processes
    from nanogpt.research.slow_links import measure_links
    from nanogpt.runtime import params
    from nanogpt.runtime.metrics_file import read_metrics, write_metrics

    known = read_metrics(args.out) if args.out else {}  # before minutes of measuring
    if args.what == "speed":
        figures = measure_processes(params.load(benchmark=BenchmarkSettings).benchmark)
    elif args.what == "curves":
        figures = measure_curves(args.steps or 200)
    elif args.what == "faults":
        figures = measure_faults(args.kills, seed=1)
    else:
        figures = measure_links(args.steps or 240)
    print(pd.Series(figures).to_string())
    if args.out:
        run = {"machine": describe_processor(), "command": f"python -m stages.scaling {args.what}"}
        group = GROUPS[args.what]
        write_metrics(args.out, known | {group: known.get(group, {}) | figures | run})


if __name__ == "__main__":
    process.run_stage(main)
