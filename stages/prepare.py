"""Turn text into token bins: data/pretrain with the tokenizer trained on it, and data/finetune."""

from argparse import BooleanOptionalAction
from dataclasses import replace

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags, override

SOURCES = ["stories", "abstracts", "tinystories", "scientific_papers", "arxiv_api", "shakespeare", "files"]
OF_FILES = ("path", "pattern", "field", "strict")  # flags that only the source `files` reads


def main() -> None:
    """Prepare one role's corpus, or both; the tokenizer is that of the checkpoint to start from, or of the first."""
    flags = Flags(__doc__)
    flags.add_argument("--role", choices=["pretrain", "finetune"], help="default: both, and pretrain with --out")
    flags.add_argument("--source", choices=SOURCES, help="in place of data.<role>.source")
    flags.add_argument("--num-samples", type=int, metavar="N", help="documents to read")
    flags.add_argument("--val-fraction", type=float, metavar="X", help="share of documents for validation")
    flags.add_argument("--path", help="file or folder of your own text, for --source files")
    flags.add_argument("--pattern", help="which files of the folder, like '**/*.txt'")
    flags.add_argument("--field", help="the field of .jsonl, .csv and .parquet that holds the text")
    flags.add_argument("--strict", action=BooleanOptionalAction, help="stop at a bad record, or count it and go on")
    flags.add_argument("--tokenizer", metavar="FOLDER", help="use its tokenizer, like that of models/pretrain")
    flags.add_output("--out", help="folder to write (default: data/<role>)")
    args = flags.parse_args()
    flags.choose_output(args)
    from nanogpt.data.prepare.prepare import prepare_corpus
    from nanogpt.data.sources.load import Data, load_corpus
    from nanogpt.data.tokens.settings import TokenizerSettings
    from nanogpt.data.tokens.tokenizer import load_from_checkpoint, load_tokenizer
    from nanogpt.runtime import params
    from nanogpt.runtime.outputs import check_outputs

    given = params.load(data=Data, tokenizer=TokenizerSettings)
    data = replace(given.data, files=override(given.data.files, args))
    whole = args.path and args.num_samples is None  # params.yaml's number is meant for another source
    args.source = args.source or ("files" if args.path else None)
    for role in [args.role or "pretrain"] if args.role or args.out else ["pretrain", "finetune"]:
        settings = getattr(data, role)
        of_files = (args.source or settings.source) == "files"
        if unused := [name for name in OF_FILES if vars(args)[name] is not None and not of_files]:
            flags.error(f"--{unused[0]} is for the source files, not for {args.source or settings.source}")
        settings = override(settings, args)
        settings = replace(settings, num_samples=None) if whole else settings
        out = args.out or f"data/{role}"
        tokenizer = args.tokenizer or ("data/pretrain/tokenizer" if role == "finetune" and not args.out else None)
        inputs = [path for path in (tokenizer, of_files and settings.path) if path]
        check_outputs({out: "manifest.json"}, inputs, args.overwrite or not args.out)
        if args.tokenizer:
            tokens = load_tokenizer(args.tokenizer)
        else:
            start = params.load_key("train.init_from", str)
            tokens = tokenizer or load_from_checkpoint(start) or given.tokenizer
        manifest = prepare_corpus(out, load_corpus(settings, data), settings.val_fraction, tokens)
        counts = ", ".join(f"{one['tokens']:,} tokens ({split})" for split, one in manifest["splits"].items())
        print(f"{out}: {manifest['source']} in {manifest['tokenizer']} tokens, {counts}; see {out}/manifest.json")


if __name__ == "__main__":
    process.run_stage(main)
