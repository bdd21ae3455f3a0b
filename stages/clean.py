"""List saved states of unfinished runs in .work, and shards of a day ago or older; with --remove delete them."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags


def main() -> None:
    """Print a line for each folder that no process is using: its MiB, and the days since it was last written."""
    flags = Flags(__doc__)
    flags.add_argument("--remove", action="store_true", help="delete them; those runs cannot be resumed then")
    args = flags.parse_args()
    from nanogpt.runtime import locks
    from nanogpt.runtime.workdir import list_leftovers, remove_committed_runs

    remove_committed_runs()
    found = list_leftovers()
    if not found:
        print(".work holds no unfinished run")
    for folder, size, age in found:
        removed = args.remove and locks.remove_unless_held(folder)
        print(f"{'removed ' * removed}{folder}: {size / 2**20:,.1f} MiB, {age:.1f} days old")


if __name__ == "__main__":
    process.run_stage(main)
