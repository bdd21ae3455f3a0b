"""Write text: from one checkpoint, or from several side by side with their figures on both domains."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags, override, parse_seed


def main() -> None:
    """Without flags, compare pretrained, adapted and merged: metrics/samples.md and metrics/sample.json."""
    flags = Flags(__doc__)
    flags.add_argument("--checkpoint", help="write from this model folder or .pt file alone, to the terminal")
    flags.add_argument("--base-checkpoint", help="compare this model, on the terminal (default: models/pretrain) ...")
    flags.add_argument("--lora-checkpoint", help="... with this adapter, a path or name (default: models/lora)")
    also = "... and with this model folder, .pt file or adapter folder; may be given again"
    flags.add_argument("--also", action="append", default=[], metavar="PATH", help=also)
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
    flags.check_files(args)
    from nanogpt.inference.settings import SampleSettings
    from nanogpt.lora.named import find_adapter
    from nanogpt.runtime import params
    from nanogpt.runtime.ranges import Seed

    given = params.load(seed=Seed, sample=SampleSettings)
    settings = override(given.sample, args)
    adapter = args.lora_checkpoint and find_adapter(args.lora_checkpoint)
    seed = given.seed if args.seed is None else args.seed
    if one_model:
        from nanogpt.evaluation.print_samples import print_samples

        print_samples(args.checkpoint, adapter, settings, seed, args.interactive)
    else:
        from nanogpt.evaluation.side_by_side import write_comparison

        models = args.base_checkpoint, adapter, args.also
        pipeline = not (args.out or flags.changes(args))
        print(write_comparison(*models, settings, seed, args.out, pipeline))


if __name__ == "__main__":
    process.run_stage(main)
