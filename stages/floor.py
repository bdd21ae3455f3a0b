"""Compare the pipeline's pretrained model with the known entropy of its text, as figures for docs."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags


def main() -> None:
    """Read metrics/, print the figures; --out adds them to a file under the name of the recipe that was run."""
    flags = Flags(__doc__)
    flags.add_argument("recipe", metavar="NAME", help="recipe of the run")
    flags.add_output("--out", metavar="PATH.json", help="file to add the figures to, under NAME with _ for -")
    args = flags.parse_args()
    flags.check_files(args)
    from nanogpt.hardware.processor import describe_processor
    from nanogpt.research.floor import compare_with_floor
    from nanogpt.runtime.metrics_file import add_metrics

    figures = compare_with_floor("metrics/pretrain.json")
    print("\n".join(f"{name:<12}{value:10.4f}" for name, value in figures.items()))
    if args.out:
        command = f"python -m stages.recipe {args.recipe} && dvc repro pretrain && python -m stages.floor {args.recipe}"
        key = args.recipe.replace("-", "_")
        add_metrics(args.out, key, {"machine": describe_processor(), "command": command} | figures)


if __name__ == "__main__":
    process.run_stage(main)
