"""Measure what each part of the architectures is worth: models with one part in another form, at equal steps."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags, override


def main() -> None:
    """Train every variant with every seed and print the table; --out adds its figures to a file."""
    flags = Flags(__doc__)
    flags.add_series(seeds=3)
    flags.add_output("--out", metavar="PATH.json", help="file to write the figures to, under `architecture`")
    args = flags.parse_args()
    flags.check_files(args)
    import pandas as pd

    from nanogpt.hardware.processor import describe_processor
    from nanogpt.model.config import ModelSettings
    from nanogpt.research.architecture import measure_parts
    from nanogpt.runtime import params
    from nanogpt.runtime.metrics_file import add_metrics, read_metrics
    from nanogpt.training.settings import TrainSettings

    if args.out:
        read_metrics(args.out)  # before hours of training
    given = params.load(model=ModelSettings, train=TrainSettings)
    training = override(given.train, args)
    tables = measure_parts(given.model, training, args.data, range(1, args.seeds + 1))
    for name, table in tables.items():
        print(name, pd.DataFrame(table).T.round(3).to_string(), sep="\n")
    if args.out:
        flags_given = f"--seeds {args.seeds} --max-steps {training.max_steps} --data {args.data}"
        run = {"machine": describe_processor(), "command": f"python -m stages.architecture {flags_given}"}
        add_metrics(args.out, "architecture", run | tables)


if __name__ == "__main__":
    process.run_stage(main)
