"""Turn text into token bins: data/pretrain with the tokenizer trained on it, and data/finetune."""

from nanogpt import errors
from nanogpt.flags import Flags, override


def main() -> None:
    """Prepare one role's corpus, or both; the tokenizer belongs to the pretraining corpus."""
    flags = Flags(__doc__)
    flags.add_argument("--role", choices=["pretrain", "finetune"], help="which corpus (default: both)")
    flags.add_argument("--source", choices=["stories", "abstracts", "files"], help="in place of data.<role>.source")
    flags.add_argument("--num-samples", type=int, metavar="N", help="documents to take")
    flags.add_argument("--path", help="file or folder of your own text, for --source files")
    flags.add_argument("--out", help="folder to write (default: data/<role>); with it, one corpus and its tokenizer")
    args = flags.parse_args()
    if args.path:
        args.source = args.source or "files"
    from nanogpt import params, prepare
    from nanogpt.corpus.document import Data
    from nanogpt.tokenizer import TokenizerSettings

    given = params.load(data=Data, tokenizer=TokenizerSettings)
    if args.out or args.source or args.num_samples or args.path:
        role = args.role or "pretrain"
        data = override(getattr(given.data, role), args)
        prepare.prepare(args.out or f"data/{role}", data, given.tokenizer)
        return
    if args.role != "finetune":
        prepare.prepare("data/pretrain", given.data.pretrain, given.tokenizer)
    if args.role != "pretrain":
        prepare.prepare("data/finetune", given.data.finetune, "data/pretrain/tokenizer")


if __name__ == "__main__":
    errors.run(main)
