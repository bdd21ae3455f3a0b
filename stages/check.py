"""Read all of params.yaml, fetch and look at what it names, before DVC deletes the outs of any other stage."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags


def main() -> None:
    """Write the constant out; raises UserError for a mistake in the settings or the sources."""
    Flags(__doc__).parse_args()
    from nanogpt.data.prepare.train_tokenizer import validate_vocabulary
    from nanogpt.data.sources.load import load_corpus, validate_corpus
    from nanogpt.pipeline.sections import SECTIONS
    from nanogpt.runtime import atomic, params
    from nanogpt.training.init_from import check_init_from

    everything = params.load_all(**SECTIONS)
    for role in ("pretrain", "finetune"):
        validate_corpus(load_corpus(getattr(everything.data, role), everything.data))
    validate_vocabulary(everything.tokenizer)
    check_init_from(everything.model, everything.tokenizer, everything.train.init_from)
    atomic.write_text("data/checked", "params.yaml and the sources were read without complaint\n")


if __name__ == "__main__":
    process.run_stage(main)
