"""Measure text to tokens on this machine: megabytes a second beside tiktoken's own, and memory."""

from dataclasses import replace

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags, override


def main() -> None:
    """Measure and print the table; --out writes the figures too."""
    flags = Flags(__doc__)
    flags.add_argument("--path", help="file or folder of text to repeat to size (default: data.pretrain)")
    flags.add_argument("--megabytes", type=int, metavar="N", default=100, help="how much (default: %(default)s)")
    flags.add_argument("--num-iters", type=int, metavar="N", default=3, help="measurements (default: %(default)s)")
    flags.add_argument("--kind", choices=["gpt2", "bpe", "byte"], help="in place of tokenizer.kind")
    flags.add_argument("--vocab-size", type=int, metavar="N", help="in place of tokenizer.vocab_size")
    flags.add_output("--out", metavar="PATH.json", help="file to write")
    args = flags.parse_args()
    if args.megabytes < 1 or args.num_iters < 1:
        flags.error("--megabytes and --num-iters are at least 1")
    flags.check_files(args, *([args.path] if args.path else []))
    from nanogpt.data.sources.load import Data, load_corpus
    from nanogpt.data.tokens.settings import TokenizerSettings
    from nanogpt.hardware.processor import describe_processor
    from nanogpt.research.prepare_speed import measure_prepare
    from nanogpt.runtime import params
    from nanogpt.runtime.metrics_file import write_metrics

    given = params.load(data=Data, tokenizer=TokenizerSettings)
    settings = given.data.pretrain
    if args.path:
        settings = replace(settings, source="files", path=args.path, num_samples=None)
    print(describe_processor(), flush=True)
    corpus = load_corpus(settings, given.data)
    figures = measure_prepare(corpus, override(given.tokenizer, args), args.megabytes, args.num_iters)
    print("\n".join(f"{name:<24}{value:10,.2f}" for name, value in figures.items()))
    if args.out:
        write_metrics(args.out, figures)


if __name__ == "__main__":
    process.run_stage(main)
