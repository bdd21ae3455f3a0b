"""Show a run on one page of HTML: curves, scores, what the models know and write, speed; it needs no network."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags


def main() -> None:
    """Without flags, write metrics/report.html."""
    flags = Flags(__doc__)
    flags.add_argument("--metrics", default="metrics", help="folder of the pipeline's metrics (default: %(default)s)")
    flags.add_argument("--data", default="data", help="folder of both domains' bins (default: %(default)s)")
    flags.add_argument(
        "--also", action="append", default=[], metavar="RUN",
        help="run to compare with: folder of metrics, experiment or git revision; may be given several times",
    )  # fmt: skip
    flags.add_output(
        "--out", metavar="PATH.html", help="page (default: metrics/report.html, with --also out/report.html)"
    )
    args = flags.parse_args()
    if args.also and not args.out:
        args.out, args.overwrite = "out/report.html", True
    flags.check_files(args)
    from nanogpt.report.report import write_report

    print(write_report(args.metrics, args.data, args.out or "metrics/report.html", args.also))


if __name__ == "__main__":
    process.run_stage(main)
