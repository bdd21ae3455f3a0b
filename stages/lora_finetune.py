"""Train a LoRA adapter for models/pretrain on data/finetune: models/lora, metrics and curves."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags, override


def main() -> None:
    """Read the settings and fine-tune."""
    flags = Flags(__doc__)
    flags.add_argument("--base-checkpoint", help="model to adapt, scored on --data only (default: models/pretrain)")
    flags.add_argument("--data", default="data/finetune", help="folder of bins (default: %(default)s)")
    flags.add_argument("--r", type=int, help="rank, in place of lora.r")
    flags.add_argument("--kind", choices=["lora", "rslora", "dora"], help="in place of lora.kind")
    flags.add_argument("--max-steps", type=int, metavar="N", help="in place of lora.max_steps")
    flags.add_output("--out", help="adapter folder to write, metrics inside it (default: models/lora and metrics/)")
    args = flags.parse_args()
    flags.choose_output(args)
    from nanogpt.lora.finetune import finetune
    from nanogpt.lora.settings import LoraSettings
    from nanogpt.runtime import params
    from nanogpt.runtime.ranges import Seed
    from nanogpt.training.settings import TrainSettings

    given = params.load(seed=Seed, train=TrainSettings, lora=LoraSettings)
    settings = override(given.lora, args)
    places = {"overwrite": args.overwrite or not args.out}
    places |= {"base": args.base_checkpoint, "first_domain": None} if args.base_checkpoint else {}
    places |= {"out": args.out, "metrics_folder": args.out} if args.out else {}
    finetune(given.seed, settings, settings.training(given.train), data=args.data, **places)


if __name__ == "__main__":
    process.run_stage(main)
