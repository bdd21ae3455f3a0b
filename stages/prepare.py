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
    flags.add_argument("--format", choices=["text", "chat"], help="chat: records of prompts and answers")
    flags.add_argument("--strict", action=BooleanOptionalAction, help="stop at a bad record, or count it and go on")
    flags.add_argument("--tokenizer", metavar="FOLDER", help="use its tokenizer, like that of models/pretrain")
    help = "encode shards of a large text for the same command elsewhere, which shares .work; write no bins"
    flags.add_argument("--shards-only", action="store_true", help=help)
    flags.add_output("--out", help="folder to write (default: data/<role>)")
    args = flags.parse_args()
    flags.choose_output(args)
    from nanogpt.data.prepare.prepare import prepare_role
    from nanogpt.data.sources.load import Data
    from nanogpt.data.tokens.settings import TokenizerSettings
    from nanogpt.runtime import params
    from nanogpt.runtime.yaml_file import find_value, read_yaml

    given = params.load(data=Data, tokenizer=TokenizerSettings)
    init_from = str(find_value(read_yaml(params.PATH), "train.init_from"))
    data = replace(given.data, files=override(given.data.files, args))
    args.source = args.source or ("files" if args.path else None)
    for role in [args.role or "pretrain"] if args.role or args.out else ["pretrain", "finetune"]:
        settings = override(getattr(data, role), args)
        if settings.source != "files" and (unused := [name for name in OF_FILES if vars(args)[name] is not None]):
            flags.error(f"--{unused[0]} is for the source files, not for {settings.source}")
        if args.path and args.num_samples is None:  # the number in params.yaml is meant for another source
            settings = replace(settings, num_samples=None)
        data = replace(data, **{role: settings})
        overwrite = args.overwrite or not args.out
        more = args.tokenizer, args.out, overwrite, args.shards_only
        print(prepare_role(role, data, given.tokenizer, init_from, *more))


if __name__ == "__main__":
    process.run_stage(main)
