"""From a corpus to a folder that training reads: token bins, their manifest, the tokenizer."""

from collections import Counter
from pathlib import Path

from nanogpt import atomic, bins, tokenizer
from nanogpt.corpus import Corpus
from nanogpt.tokenizer import TokenizerSettings


def prepare(out: Path | str, corpus: Corpus, val_fraction: float, tokens: TokenizerSettings | Path | str) -> dict:
    """Write a folder of bins; all of it appears at once, or what was there stays.

    `tokens` are settings, to train a tokenizer on this corpus and save it as `<out>/tokenizer`, or
    the folder of one that exists. Returns the manifest. Raises UserError for unusable text.
    """
    with atomic.folder(out) as folder:
        if isinstance(tokens, TokenizerSettings):
            texts = (document.text for document in corpus.documents(Counter()))
            tok = tokenizer.train(tokens.suited(corpus.tokenizer), texts)
            tok.save(folder / "tokenizer")
        else:
            tok = tokenizer.load(tokens)
        return bins.write(folder, corpus, tok, val_fraction)
