"""Check params.yaml, the sources and this machine, before DVC deletes the outs of any other stage."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags


def main() -> None:
    """Raises UserError for the first mistake; otherwise writes data/checked and data/tokenizer-text."""
    Flags(__doc__).parse_args()
    from nanogpt.pipeline.check import check_project

    print(check_project())


if __name__ == "__main__":
    process.run_stage(main)
