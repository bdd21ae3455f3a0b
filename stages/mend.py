"""Repair files of DVC that a kill left half written, which makes every `dvc` fail; `make repro` does it first."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags


def main() -> None:
    """Repair, and print one line for each file repaired."""
    Flags(__doc__).parse_args()
    from nanogpt.runtime.dvc_repair import repair

    print("\n".join(repair()) or "no file of DVC is damaged")


if __name__ == "__main__":
    process.run_stage(main)
