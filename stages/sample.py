"""Write text: from one checkpoint, or from several side by side with their figures on both domains."""

from pathlib import Path

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags, override, parse_seed


def main() -> None:
    """Without --checkpoint, compare pretrained, adapted and merged: metrics/samples.md and metrics/sample.json."""
    flags = Flags(__doc__)
    flags.add_argument("--checkpoint", help="model folder or .pt file to write from, to the terminal")
    flags.add_argument("--base-checkpoint", help="compare this model, on the terminal (default: models/pretrain) ...")
    flags.add_argument(
        "--lora-checkpoint", help="... with this adapter on it (default: models/lora on models/pretrain)"
    )
    flags.add_argument(
        "--also", action="append", default=[], metavar="PATH",
        help="... and with this model folder, .pt file or adapter folder; may be given again",
    )  # fmt: skip
    flags.add_argument("--out", metavar="PATH.md", help="write the page here too, and its figures to PATH.json")
    flags.add_argument("--prompt", action="append", dest="prompts", help="text to go on from; may be given again")
    flags.add_argument("--num-samples", type=int, metavar="N", help="texts for each prompt")
    flags.add_argument("--max-tokens", type=int, metavar="N", help="tokens to write at most")
    flags.add_argument("--temperature", type=float, metavar="X", help="0 takes the likeliest token, 1 samples as it is")
    flags.add_argument("--top-k", type=int, metavar="N", help="sample from the N likeliest tokens only")
    flags.add_argument("--top-p", type=float, metavar="X", help="sample from the likeliest that sum up to X only")
    flags.add_argument("--seed", type=parse_seed, help="same seed, same text")
    flags.add_argument("--interactive", action="store_true", help="ask for prompts on the terminal")
    args = flags.parse_args()
    talks = args.checkpoint or args.interactive
    if talks and (args.also or args.out):
        flags.error("--also and --out are for a comparison, --checkpoint and --interactive for one model alone")
    if args.out and Path(args.out).suffix != ".md":
        flags.error(f"--out {args.out}: the page is Markdown; choose a name that ends in .md")
    from nanogpt.checkpoint.folder import load_checkpoint
    from nanogpt.evaluation.side_by_side import compare_models
    from nanogpt.inference.completions import generate_interactive
    from nanogpt.inference.settings import SampleSettings
    from nanogpt.runtime import atomic, params
    from nanogpt.runtime.metrics_file import write_metrics
    from nanogpt.runtime.ranges import Seed
    from nanogpt.training.settings import TrainSettings

    given = params.load(seed=Seed, train=TrainSettings, sample=SampleSettings)
    settings = override(given.sample, args)
    seed = given.seed if args.seed is None else args.seed
    if talks:
        generate_interactive(*load_checkpoint(args.checkpoint or "models/merged"), settings, seed, args.interactive)
        return
    others = args.base_checkpoint or args.lora_checkpoint
    custom = others or args.also or args.out
    page, figures = compare_models(
        args.base_checkpoint or "models/pretrain",
        args.lora_checkpoint or (None if args.base_checkpoint else "models/lora"),
        None if others else "models/merged",
        settings, seed, given.train.dtype, args.also, strict=not custom,
    )  # fmt: skip
    if custom:
        print(page)
    if args.out or not custom:
        write_metrics(Path(args.out).with_suffix(".json") if args.out else "metrics/sample.json", figures)
        atomic.write_text(args.out or "metrics/samples.md", page)


if __name__ == "__main__":
    process.run_stage(main)
