"""Draw the validation curves of the pipeline's run, with the floors, to an SVG file."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags


def main() -> None:
    """Read metrics/ and write the picture."""
    flags = Flags(__doc__)
    flags.add_argument("--metrics", default="metrics", help="folder of the pipeline's metrics (default: %(default)s)")
    flags.add_output("--out", metavar="PATH.svg", default="out/curves.svg", help="picture (default: %(default)s)")
    args = flags.parse_args()
    flags.check_files(args)
    from nanogpt.report.charts import write_curves

    write_curves(args.metrics, args.out)
    print(f"{args.out}: the curves of {args.metrics}")


if __name__ == "__main__":
    process.run_stage(main)
