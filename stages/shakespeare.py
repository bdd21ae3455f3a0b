"""Time Shakespeare by characters: beside nanoGPT's documented run on this machine, or one long run alone."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags


def main() -> None:
    """Run params.yaml, and nanoGPT if its folder is given; print the figures; --out adds them to a file."""
    flags = Flags(__doc__)
    peer_help = "clone of github.com/karpathy/nanoGPT, whose program is run; without it, params.yaml is run once"
    flags.add_argument("peer", metavar="FOLDER", nargs="?", help=peer_help)
    flags.add_output("--out", metavar="PATH.json", help="file to write the figures to, under `shakespeare`")
    args = flags.parse_args()
    flags.check_files(args, *([f"{args.peer}/train.py"] if args.peer else []))
    from nanogpt.hardware.processor import describe_processor
    from nanogpt.research.shakespeare import compare_times, train_best
    from nanogpt.runtime.metrics_file import add_metrics, read_metrics

    earlier = read_metrics(args.out).get("shakespeare", {}) if args.out else {}  # before hours of training
    command = "python -m stages.recipe {} && python -m stages.shakespeare"
    if args.peer:
        figures = compare_times(args.peer, seeds=(1, 2, 3))
        origin = {"machine": describe_processor(), "command": f"{command.format('shakespeare-quick')} {args.peer}"}
    else:
        figures = train_best(seed=1)
        origin = {"best_machine": describe_processor(), "best_command": command.format("shakespeare-best")}
        earlier.pop("minutes_to_14697", None)
    print("\n".join(f"{name:<32}{value:10.4f}" for name, value in figures.items()))
    if args.out:
        add_metrics(args.out, "shakespeare", earlier | origin | figures)


if __name__ == "__main__":
    process.run_stage(main)
