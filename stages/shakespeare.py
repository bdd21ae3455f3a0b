"""Time Shakespeare by characters, with the recipe shakespeare-quick, over nanoGPT's documented run on this machine."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags


def main() -> None:
    """Run nanoGPT and params.yaml, print the figures; --out adds them to a file."""
    flags = Flags(__doc__)
    flags.add_argument("peer", metavar="FOLDER", help="clone of github.com/karpathy/nanoGPT; its program is run")
    flags.add_output("--out", metavar="PATH.json", help="file to write the figures to, under `shakespeare`")
    args = flags.parse_args()
    flags.check_files(args, f"{args.peer}/train.py")
    from nanogpt.hardware.processor import describe_processor
    from nanogpt.research.shakespeare import compare_times
    from nanogpt.runtime.metrics_file import add_metrics, read_metrics

    if args.out:
        read_metrics(args.out)  # before hours of training
    figures = compare_times(args.peer, seeds=(1, 2, 3))
    print("\n".join(f"{name:<32}{value:10.4f}" for name, value in figures.items()))
    if args.out:
        command = f"python -m stages.recipe shakespeare-quick && python -m stages.shakespeare {args.peer}"
        add_metrics(args.out, "shakespeare", {"machine": describe_processor(), "command": command, **figures})


if __name__ == "__main__":
    process.run_stage(main)
