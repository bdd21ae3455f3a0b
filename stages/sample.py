"""Write text: from one checkpoint, or from several side by side with their figures on both domains."""

from nanogpt import errors
from nanogpt.flags import Flags, override


def main() -> None:
    """Without --checkpoint, compare pretrained, adapted and merged: metrics/samples.md and metrics/sample.json."""
    flags = Flags(__doc__)
    flags.add_argument("--checkpoint", help="model folder or .pt file to write from, to the terminal")
    flags.add_argument("--base-checkpoint", help="compare this model ... (default: models/pretrain)")
    flags.add_argument("--lora-checkpoint", help="... with this adapter on it (default: models/lora)")
    flags.add_argument("--prompt", action="append", dest="prompts", help="text to go on from; may be given again")
    flags.add_argument("--num-samples", type=int, metavar="N", help="texts for each prompt")
    flags.add_argument("--max-tokens", type=int, metavar="N", help="tokens to write at most")
    flags.add_argument("--temperature", type=float, metavar="X", help="0 takes the likeliest token, 1 samples as it is")
    flags.add_argument("--top-k", type=int, metavar="N", help="sample from the N likeliest tokens only")
    flags.add_argument("--top-p", type=float, metavar="X", help="sample from the likeliest that sum up to X only")
    flags.add_argument("--seed", type=int, help="same seed, same text")
    flags.add_argument("--interactive", action="store_true", help="ask for prompts on the terminal")
    args = flags.parse_args()
    from nanogpt import atomic, checkpoint, compare, metrics, params, train

    given = params.load(seed=int, train=train.TrainSettings, sample=compare.SampleSettings)
    settings = override(given.sample, args)
    seed = given.seed if args.seed is None else args.seed
    if args.checkpoint or args.interactive:
        compare.talk(*checkpoint.load(args.checkpoint or "models/merged"), settings, seed, args.interactive)
        return
    custom = args.base_checkpoint or args.lora_checkpoint
    page, figures = compare.compare(
        args.base_checkpoint or "models/pretrain", args.lora_checkpoint or "models/lora",
        None if custom else "models/merged", settings, seed, given.train.dtype, strict=not custom,
    )  # fmt: skip
    if custom:
        print(page)
    else:
        atomic.write_text("metrics/samples.md", page)
        metrics.write("metrics/sample.json", figures)


if __name__ == "__main__":
    errors.run(main)
