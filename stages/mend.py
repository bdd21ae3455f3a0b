"""Mend files of DVC's own that a kill has torn, where each `dvc` ends with an error; `make repro` does it first."""

from nanogpt import process
from nanogpt.flags import Flags


def main() -> None:
    """Say what was torn, and what became of it."""
    Flags(__doc__).parse_args()
    from nanogpt.resume import torn

    print("\n".join(torn.mend()) or "no file of DVC's is torn")


if __name__ == "__main__":
    process.run(main)
