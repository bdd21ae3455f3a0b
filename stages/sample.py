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
    prompt_file = "file of prompts, one a line, or .jsonl with the field prompt"
    flags.add_argument("--prompt-file", metavar="FILE", help=prompt_file)
    flags.add_argument("--num-samples", type=int, metavar="N", help="texts for each prompt")
    flags.add_argument("--max-tokens", type=int, metavar="N", help="tokens to write at most")
    flags.add_argument("--temperature", type=float, metavar="X", help="0 takes the likeliest token, 1 samples as it is")
    flags.add_argument("--top-k", type=int, metavar="N", help="sample from the N likeliest tokens only")
    flags.add_argument("--top-p", type=float, metavar="X", help="sample from the likeliest that sum up to X only")
    min_p = "sample from those with at least X times the probability of the likeliest only"
    flags.add_argument("--min-p", type=float, metavar="X", help=min_p)
    penalty = "above 1 makes tokens less likely that are in the text already"
    flags.add_argument("--repetition-penalty", type=float, metavar="X", help=penalty)
    flags.add_argument("--stop", action="append", metavar="TEXT", help="end a text before this; may be given again")
    flags.add_argument("--seed", type=parse_seed, help="same seed, same text")
    dtypes = ["auto", "float32", "bfloat16", "float16", "int8"]
    flags.add_argument("--dtype", choices=dtypes, help="of the weights; int8 is fastest and a little rounded")
    flags.add_argument("--json", action="store_true", help="print a JSON object a text, all written at once")
    interactive = "ask for prompts, and answer in a conversation where the model has a chat template"
    flags.add_argument("--interactive", action="store_true", help=f"{interactive} (default model: models/merged)")
    args = flags.parse_args()
    one_model = args.checkpoint or args.interactive or args.json
    if one_model and (args.also or args.out or args.base_checkpoint):
        flags.error(
            "--base-checkpoint, --also and --out compare models; --checkpoint, --interactive and --json are for one"
        )
    if args.interactive and (args.prompts or args.prompt_file or args.json):
        flags.error("--interactive asks for prompts and prints text; leave --prompt, --prompt-file and --json out")
    if args.prompts and args.prompt_file:
        flags.error("--prompt and --prompt-file exclude each other")
    if args.prompts and not all(args.prompts):
        flags.error("--prompt '': it is empty; write some text, or leave it out")
    flags.check_files(args, *([args.prompt_file] if args.prompt_file else []))
    from nanogpt.inference.prompts import read_prompts
    from nanogpt.inference.settings import SampleSettings
    from nanogpt.lora.named import find_adapter
    from nanogpt.runtime import params
    from nanogpt.runtime.ranges import Seed

    if args.prompt_file:
        args.prompts = read_prompts(args.prompt_file)
    given = params.load(seed=Seed, sample=SampleSettings)
    settings = override(given.sample, args)
    adapter = args.lora_checkpoint and find_adapter(args.lora_checkpoint)
    seed = given.seed if args.seed is None else args.seed
    if one_model:
        from nanogpt.evaluation import print_samples
        from nanogpt.inference.open_writer import open_writer

        writer = open_writer(args.checkpoint, adapter, settings.dtype)
        if args.interactive:
            print_samples.converse(writer, settings, seed)
        elif args.json:
            print_samples.print_json_lines(writer, settings, seed)
        else:
            print_samples.print_samples(writer, settings, seed)
    else:
        from nanogpt.evaluation.side_by_side import write_comparison

        models = args.base_checkpoint, adapter, args.also
        pipeline = not (args.out or flags.changes(args))
        print(write_comparison(*models, settings, seed, args.out, pipeline))


if __name__ == "__main__":
    process.run_stage(main)
