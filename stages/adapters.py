"""List the adapters in models/ and out/: their models, kinds, texts and bits per byte."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags


def main() -> None:
    """Print a line for each adapter; `stages.sample --lora-checkpoint NAME` writes text with one."""
    Flags(__doc__).parse_args()
    from nanogpt.lora.named import describe_adapters

    rows = describe_adapters()
    for row in rows:
        print(*(f"{name}: {fact}" for name, fact in row.items() if fact), sep="; ")
    if not rows:
        print("no adapter in models/ or out/; train one with `dvc repro lora-finetune`")


if __name__ == "__main__":
    process.run_stage(main)
