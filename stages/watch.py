"""Show a training run in the terminal, while it goes on or afterwards: curve, speed, time left, memory, its texts."""

from pathlib import Path

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags


def main() -> None:
    """Show the newest run until Ctrl-C."""
    flags = Flags(__doc__)
    where = "folder of a run in .work, or of metrics (default: the run that is running, or else the newest)"
    flags.add_argument("folder", nargs="?", type=Path, help=where)
    flags.add_argument(
        "--once", action="store_true", help="show it as it is now and end, as where there is no terminal"
    )
    args = flags.parse_args()
    from nanogpt.report.watch import watch

    watch(args.folder, args.once)


if __name__ == "__main__":
    process.run_stage(main)
