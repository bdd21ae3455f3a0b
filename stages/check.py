"""Read all of params.yaml, fetch and look at what it names, before DVC deletes the outs of any other stage."""

from nanogpt import process
from nanogpt.flags import Flags


def main() -> None:
    """Write the constant out; raises UserError for a mistake in the settings or the sources."""
    Flags(__doc__).parse_args()
    from nanogpt import atomic, corpus, params, settings, start, tokenizer, train

    everything = params.load_all(**settings.SECTIONS)
    train.check_seed(everything.seed)
    for role in ("pretrain", "finetune"):
        corpus.look(corpus.load(getattr(everything.data, role), everything.data))
    tokenizer.look(everything.tokenizer)
    start.check(everything.model, everything.tokenizer, everything.train.init_from)
    atomic.write_text("data/checked", "params.yaml and the sources were read without complaint\n")


if __name__ == "__main__":
    process.run(main)
