"""Turn text into token bins: data/pretrain with the tokenizer trained on it, and data/finetune."""

from argparse import BooleanOptionalAction
from dataclasses import replace

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags, override

SOURCES = ["stories", "abstracts", "tinystories", "scientific_papers", "arxiv_api", "shakespeare", "files"]


def main() -> None:
    """Prepare one role's corpus, or both; the tokenizer is that of the checkpoint to start from, or of the first."""
    flags = Flags(__doc__)
    flags.add_argument("--role", choices=["pretrain", "finetune"], help="which corpus (default: both)")
    flags.add_argument("--source", choices=SOURCES, help="in place of data.<role>.source")
    flags.add_argument("--num-samples", type=int, metavar="N", help="documents to take")
    flags.add_argument("--val-fraction", type=float, metavar="X", help="share of documents kept for validation")
    flags.add_argument("--path", help="file or folder of your own text, for --source files")
    flags.add_argument("--pattern", help="which files of the folder, like '**/*.txt'")
    flags.add_argument("--field", help="the field of .jsonl, .csv and .parquet that holds the text")
    flags.add_argument("--strict", action=BooleanOptionalAction, help="stop at a bad record, or count it and go on")
    flags.add_argument("--tokenizer", metavar="FOLDER", help="use its tokenizer, like that of models/pretrain")
    flags.add_argument("--out", help="folder to write (default: data/<role>)")
    args = flags.parse_args()
    if args.path:
        args.source = args.source or "files"
    everything = args.path and not args.num_samples  # not as many as params.yaml says of another source
    from nanogpt.data.prepare.prepare import prepare_corpus
    from nanogpt.data.sources.load import Data, load_corpus
    from nanogpt.data.tokens.settings import TokenizerSettings
    from nanogpt.data.tokens.tokenizer import load_from_checkpoint, load_tokenizer
    from nanogpt.runtime import params

    given = params.load(data=Data, tokenizer=TokenizerSettings)
    data = replace(given.data, files=override(given.data.files, args))
    one = args.out or args.source or args.num_samples
    for role in [args.role] if args.role else ["pretrain"] if one else ["pretrain", "finetune"]:
        settings = override(getattr(data, role), args)
        if everything:
            settings = replace(settings, num_samples=None)
        if args.tokenizer:
            tokens = load_tokenizer(args.tokenizer)
        elif role == "finetune" and not args.out:
            tokens = "data/pretrain/tokenizer"
        else:
            tokens = load_from_checkpoint(params.load_key("train.init_from", str)) or given.tokenizer
        prepare_corpus(args.out or f"data/{role}", load_corpus(settings, data), settings.val_fraction, tokens)


if __name__ == "__main__":
    process.run_stage(main)
