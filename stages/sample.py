"""Write text: from one checkpoint, or from several side by side with their figures on both domains."""

from pathlib import Path

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags, override, parse_seed


def main() -> None:
    """Without flags, compare pretrained, adapted and merged: metrics/samples.md and metrics/sample.json."""
    flags = Flags(__doc__)
    flags.add_argument("--checkpoint", help="write from this model folder or .pt file alone, to the terminal")
    flags.add_argument("--base-checkpoint", help="compare this model, on the terminal (default: models/pretrain) ...")
    flags.add_argument(
        "--lora-checkpoint", help="... with this adapter on it (default: models/lora on models/pretrain)"
    )
    flags.add_argument(
        "--also", action="append", default=[], metavar="PATH",
        help="... and with this model folder, .pt file or adapter folder; may be given again",
    )  # fmt: skip
    flags.add_output("--out", metavar="PATH.md", help="write the comparison here too, and its figures to PATH.json")
    flags.add_argument("--prompt", action="append", dest="prompts", help="text to continue; may be given again")
    flags.add_argument("--num-samples", type=int, metavar="N", help="texts for each prompt")
    flags.add_argument("--max-tokens", type=int, metavar="N", help="tokens to write at most")
    flags.add_argument("--temperature", type=float, metavar="X", help="0 takes the likeliest token, 1 samples as it is")
    flags.add_argument("--top-k", type=int, metavar="N", help="sample from the N likeliest tokens only")
    flags.add_argument("--top-p", type=float, metavar="X", help="sample from the likeliest that sum up to X only")
    flags.add_argument("--seed", type=parse_seed, help="same seed, same text")
    flags.add_argument("--interactive", action="store_true", help="ask for prompts (default model: models/merged)")
    args = flags.parse_args()
    one_model = args.checkpoint or args.interactive
    if one_model and (args.also or args.out or args.base_checkpoint):
        flags.error("--base-checkpoint, --also and --out are for a comparison, --checkpoint and --interactive for one")
    if args.interactive and args.prompts:
        flags.error("--interactive asks for prompts; leave --prompt out")
    if args.overwrite and not args.out:
        flags.error("--overwrite is for --out, which is missing")
    if args.out and Path(args.out).suffix != ".md":
        flags.error(f"--out {args.out}: the page is Markdown; choose a name that ends in .md")
    from nanogpt.checkpoint.folder import load_checkpoint
    from nanogpt.evaluation.side_by_side import compare_models
    from nanogpt.inference.completions import generate_interactive
    from nanogpt.inference.settings import SampleSettings
    from nanogpt.lora.adapter import open_adapted
    from nanogpt.runtime import atomic, params
    from nanogpt.runtime.metrics_file import write_metrics
    from nanogpt.runtime.outputs import check_outputs
    from nanogpt.runtime.ranges import Seed

    given = params.load(seed=Seed, sample=SampleSettings)
    settings = override(given.sample, args)
    seed = given.seed if args.seed is None else args.seed
    if one_model:
        checkpoint = args.checkpoint or (None if args.lora_checkpoint else "models/merged")
        if args.lora_checkpoint:
            adapted, tok = open_adapted(args.lora_checkpoint, checkpoint)
            model = adapted.get_base_model()
        else:
            model, tok = load_checkpoint(checkpoint)
        generate_interactive(model, tok, settings, seed, args.interactive)
        return
    custom = args.out or flags.changes(args)
    page_file, figures_file = args.out or "metrics/samples.md", "metrics/sample.json"
    if args.out:
        figures_file = Path(args.out).with_suffix(".json")
        check_outputs({page_file: None, figures_file: None}, overwrite=args.overwrite)
    others = args.base_checkpoint or args.lora_checkpoint
    page, figures = compare_models(
        args.base_checkpoint or "models/pretrain",
        args.lora_checkpoint or (None if args.base_checkpoint else "models/lora"),
        None if others else "models/merged",
        settings, seed, also=args.also, strict=not custom,
    )  # fmt: skip
    if custom:
        print(page)
    if args.out or not custom:
        write_metrics(figures_file, figures)
        atomic.write_text(page_file, page)
        print(f"{page_file}: {len(figures)} models side by side, their figures in {figures_file}")


if __name__ == "__main__":
    process.run_stage(main)
