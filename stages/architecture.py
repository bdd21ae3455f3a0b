"""Measure what each part of the architectures is worth: models with one part in another form, at equal steps."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags, override


def main() -> None:
    """Train every variant with every seed and print the table; --out adds its figures to a file."""
    flags = Flags(__doc__)
    flags.add_argument("--seeds", type=int, default=3, metavar="N", help="how many, from 1 on (default: %(default)s)")
    flags.add_argument("--max-steps", type=int, metavar="N", help="in place of train.max_steps")
    flags.add_argument("--data", default="data/pretrain", help="folder of bins and tokenizer (default: %(default)s)")
    flags.add_output("--out", metavar="PATH.json", help="file to write the figures to, under `architecture`")
    args = flags.parse_args()
    if args.seeds < 2:
        flags.error(f"--seeds {args.seeds}: an interval needs at least 2")
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
        command = (
            f"python -m stages.architecture --seeds {args.seeds} --max-steps {training.max_steps} --data {args.data}"
        )
        add_metrics(args.out, "architecture", {"machine": describe_processor(), "command": command, **tables})


if __name__ == "__main__":
    process.run_stage(main)
