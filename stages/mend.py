"""Mend files of DVC's own that a kill has torn, where each `dvc` ends with an error; `make repro` does it first."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags


def main() -> None:
    """Say what was torn, and what became of it."""
    Flags(__doc__).parse_args()
    from nanogpt.runtime.dvc_repair import repair

    print("\n".join(repair()) or "no file of DVC's is torn")


if __name__ == "__main__":
    process.run_stage(main)
