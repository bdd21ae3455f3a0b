"""Train base and optimized with several seeds each: validation loss with 95% intervals, at equal steps and time."""

from pathlib import Path

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags, override


def main() -> None:
    """Train what is not trained yet and print the table. A run after an interruption continues the series."""
    flags = Flags(__doc__)
    flags.add_series(seeds=5)
    flags.add_output("--out", metavar="PATH.md", help="write the table here too, and its figures to PATH.json")
    args = flags.parse_args()
    flags.check_files(args)
    from nanogpt.evaluation.seeds import compare_seeds
    from nanogpt.runtime import atomic, params
    from nanogpt.runtime.metrics_file import write_metrics
    from nanogpt.training.settings import TrainSettings

    max_steps = override(params.load(train=TrainSettings).train, args).max_steps
    page, figures = compare_seeds(args.data, range(1, args.seeds + 1), max_steps)
    print(page)
    if args.out:
        write_metrics(Path(args.out).with_suffix(".json"), figures)
        atomic.write_text(args.out, page)


if __name__ == "__main__":
    process.run_stage(main)
