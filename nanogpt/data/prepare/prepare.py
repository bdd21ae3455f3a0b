"""From a corpus to a folder that training reads: token bins, their manifest, the tokenizer."""

from collections import Counter
from pathlib import Path

from nanogpt.data.prepare.train_tokenizer import train_tokenizer
from nanogpt.data.prepare.write_bins import write_corpus
from nanogpt.data.sources.document import Corpus
from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.data.tokens.tokenizer import Tokenizer, load_tokenizer
from nanogpt.runtime import atomic


def prepare_corpus(
    out: Path | str, corpus: Corpus, val_fraction: float, tokens: TokenizerSettings | Tokenizer | Path | str
) -> dict:
    """Write a folder of bins; all of it appears at once, or what was there stays.

    `tokens` are settings, to train a tokenizer on this corpus, or a tokenizer, either saved as
    `<out>/tokenizer`; or the folder of one that belongs to another corpus. Returns the manifest.
    Raises UserError for unusable text.
    """
    with atomic.replace_folder(out, "manifest.json") as folder:
        if isinstance(tokens, TokenizerSettings):
            texts = (document.text for document in corpus.documents(Counter()))
            tokens = train_tokenizer(tokens.resolve_auto(corpus.tokenizer), texts)
        if isinstance(tokens, Tokenizer):
            tokens.save(folder / "tokenizer")
        else:
            tokens = load_tokenizer(tokens)
        return write_corpus(folder, corpus, tokens, val_fraction)
