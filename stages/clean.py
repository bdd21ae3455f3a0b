"""List what runs that are not committed have left in .work, and with --remove delete it."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags


def main() -> None:
    """Name every run that no process holds: place, MiB, days since it was written to."""
    flags = Flags(__doc__)
    flags.add_argument("--older-than", type=float, metavar="DAYS", default=0.0, help="those only (default: all)")
    flags.add_argument("--remove", action="store_true", help="delete them; what they were after cannot be resumed")
    args = flags.parse_args()
    from nanogpt.runtime import locks
    from nanogpt.runtime.workdir import list_leftovers, remove_committed_runs

    remove_committed_runs()
    found = list_leftovers(args.older_than)
    if not found:
        print("no run has left anything")
    for folder, size, age in found:
        removed = args.remove and locks.remove_unless_held(folder)
        print(f"{'removed ' * removed}{folder}: {size / 2**20:,.1f} MiB, {age:.1f} days old")


if __name__ == "__main__":
    process.run_stage(main)
