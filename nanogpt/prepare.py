"""From a corpus to a folder that training reads: token bins, their manifest, the tokenizer."""

from collections import Counter
from pathlib import Path

from nanogpt import bins, tokenizer
from nanogpt.corpus import Corpus
from nanogpt.runtime import atomic
from nanogpt.tokenizer import Tokenizer, TokenizerSettings


def prepare(
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
            tokens = tokenizer.train(tokens.suited(corpus.tokenizer), texts)
        if isinstance(tokens, Tokenizer):
            tokens.save(folder / "tokenizer")
        else:
            tokens = tokenizer.load(tokens)
        return bins.write(folder, corpus, tokens, val_fraction)
