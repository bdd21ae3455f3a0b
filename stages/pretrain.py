"""Train a model from scratch on data/pretrain: models/pretrain, metrics and curves."""

import functools

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags, override, parse_seed


def main() -> None:
    """Read the settings and pretrain."""
    flags = Flags(__doc__)
    flags.add_argument("--arch", choices=["base", "optimized"], help="in place of model.arch")
    flags.add_argument("--init-from", metavar="PATH", help="checkpoint to start from, in place of train.init_from")
    flags.add_argument("--seed", type=parse_seed, metavar="N", help="in place of seed")
    flags.add_length("train")
    flags.add_argument("--data", default="data/pretrain", help="folder of bins and tokenizer (default: %(default)s)")
    flags.add_argument("--processes", type=int, metavar="N", help="in place of train.processes")
    flags.add_output("--out", help="model folder to write, metrics inside it (default: models/pretrain and metrics/)")
    args = flags.parse_args()
    flags.choose_output(args)
    from nanogpt.checkpoint.settings import CheckpointSettings
    from nanogpt.model.config import ModelSettings
    from nanogpt.runtime import params
    from nanogpt.runtime.ranges import Seed
    from nanogpt.training.launch import run_in_processes
    from nanogpt.training.pretrain import pretrain
    from nanogpt.training.run_record import describe_validation
    from nanogpt.training.settings import TrainSettings

    given = params.load(seed=Seed, model=ModelSettings, train=TrainSettings, checkpoint=CheckpointSettings)
    seed = given.seed if args.seed is None else args.seed
    model, training = override(given.model, args), override(given.train, args)
    out, metrics = (args.out, args.out.removesuffix(".pt")) if args.out else ("models/pretrain", "metrics")
    body = functools.partial(pretrain, seed, model, training, given.checkpoint, args.data, out, metrics, args.overwrite)
    if found := run_in_processes(training, body):
        print(
            f"{out}: {model.arch} model trained on {args.data}, {describe_validation(found, training.keep)} "
            f"({metrics}/pretrain.json); next: python -m stages.sample --checkpoint {out}"
        )


if __name__ == "__main__":
    process.run_stage(main)
