"""Read all of params.yaml, fetch and look at what it names, before DVC deletes the outs of any other stage."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags


def main() -> None:
    """Write the constant out; raises UserError for a mistake in the settings or the sources."""
    Flags(__doc__).parse_args()
    from nanogpt import settings, start, train
    from nanogpt.data.prepare.train_tokenizer import validate_vocabulary
    from nanogpt.data.sources import load_corpus, validate_corpus
    from nanogpt.runtime import atomic, params

    everything = params.load_all(**settings.SECTIONS)
    train.check_seed(everything.seed)
    for role in ("pretrain", "finetune"):
        validate_corpus(load_corpus(getattr(everything.data, role), everything.data))
    validate_vocabulary(everything.tokenizer)
    start.check(everything.model, everything.tokenizer, everything.train.init_from)
    atomic.write_text("data/checked", "params.yaml and the sources were read without complaint\n")


if __name__ == "__main__":
    process.run_stage(main)
