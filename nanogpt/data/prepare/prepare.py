"""From a corpus to a folder that training reads: token bins, their manifest, the tokenizer."""

from collections import Counter
from pathlib import Path

from nanogpt.data.prepare.train_tokenizer import train_tokenizer
from nanogpt.data.prepare.write_bins import write_corpus
from nanogpt.data.sources.document import Corpus
from nanogpt.data.sources.load import validate_size
from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.data.tokens.tokenizer import Tokenizer, load_tokenizer
from nanogpt.runtime import atomic


def prepare_corpus(
    out: Path | str, corpus: Corpus, val_fraction: float, tokens: TokenizerSettings | Tokenizer | Path | str
) -> dict:
    """Write a corpus as a folder of bins, which appears complete or not at all; return its manifest.

    `tokens` are settings, to train a tokenizer on this corpus, or a tokenizer, either saved as
    `<out>/tokenizer`; or the folder of a tokenizer, which is not copied (`tokenizer_of_bins` finds it).
    Raises UserError for unusable text, and for more of it than fits on the disk.
    """
    validate_size(corpus, out)
    with atomic.replace_folder(out, "manifest.json") as folder:
        if isinstance(tokens, TokenizerSettings):
            texts = (document.text for document in corpus.documents(Counter()))
            tokens = train_tokenizer(tokens.resolve_auto(corpus.tokenizer), texts)
        if isinstance(tokens, Tokenizer):
            tokens.save(folder / "tokenizer")
        else:
            tokens = load_tokenizer(tokens)
        return write_corpus(folder, corpus, tokens, val_fraction)
