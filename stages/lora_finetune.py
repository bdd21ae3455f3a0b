"""Train a LoRA adapter for models/pretrain on data/finetune, or all its weights: models/lora, metrics and curves."""

import functools
import sys
from dataclasses import replace
from pathlib import Path

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags, override


def main() -> None:
    """Read the settings and fine-tune."""
    flags = Flags(__doc__)
    flags.add_argument("--base-checkpoint", help="model to adapt (default: models/pretrain)")
    flags.add_argument("--data", default="data/finetune", help="folder of bins (default: %(default)s)")
    first_help = "bins that the model was trained on, to score and replay (default: data/pretrain for its own)"
    flags.add_argument("--first-domain", help=first_help)
    flags.add_argument("--replay", type=float, help="share of windows that are of --first-domain, for lora.replay")
    flags.add_argument("--r", type=int, help="rank, in place of lora.r")
    flags.add_argument("--kind", choices=["lora", "rslora", "dora", "full"], help="in place of lora.kind")
    flags.add_length("lora")
    flags.add_argument("--processes", type=int, metavar="N", help="in place of train.processes")
    flags.add_output("--out", help="adapter folder to write, metrics inside it (default: models/lora and metrics/)")
    args = flags.parse_args()
    flags.choose_output(args)
    from nanogpt.lora.finetune import finetune
    from nanogpt.lora.settings import LoraSettings
    from nanogpt.runtime import params
    from nanogpt.runtime.ranges import Seed
    from nanogpt.training.launch import run_in_processes
    from nanogpt.training.run_record import describe_validation
    from nanogpt.training.settings import TrainSettings

    given = params.load(seed=Seed, train=TrainSettings, lora=LoraSettings)
    settings = override(given.lora, args)
    # beside a .pt file, which only a whole model can be
    out, metrics = (args.out, args.out.removesuffix(".pt")) if args.out else ("models/lora", "metrics")
    if out.endswith(".pt") and settings.kind != "full":
        flags.error(f"--out {out}: an adapter is a folder; name one without .pt")
    base = args.base_checkpoint or "models/pretrain"
    own = Path(base).resolve() == Path("models/pretrain").resolve()
    first_domain = args.first_domain or ("data/pretrain" if own else None)
    if settings.replay and args.replay is None and not first_domain:
        if process.is_first():
            reason = f"what {base} was trained on is not known (--first-domain names its bins)"
            print(f"no replay: {reason}", file=sys.stderr)
        settings = replace(settings, replay=0.0)
    training = override(settings.training(given.train), args)
    body = functools.partial(
        finetune, given.seed, settings, training, base, args.data, first_domain, out, metrics, args.overwrite
    )
    if found := run_in_processes(training, body):
        data = "" if args.data == flags.get_default("data") else f" --data {args.data}"
        made = "all weights" if settings.kind == "full" else "an adapter"
        print(
            f"{out}: {made} of {base} trained on {args.data}, {describe_validation(found, training.keep)} "
            f"({metrics}/lora-finetune.json); next: python -m stages.merge --lora-checkpoint {out}{data}"
        )


if __name__ == "__main__":
    process.run_stage(main)
