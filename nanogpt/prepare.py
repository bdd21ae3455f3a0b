"""From a corpus to a folder that training reads: token bins, their manifest, the tokenizer."""

from pathlib import Path

from nanogpt import atomic, bins, corpus, tokenizer
from nanogpt.corpus import DataSettings
from nanogpt.tokenizer import TokenizerSettings


def prepare(out: Path | str, data: DataSettings, tokens: TokenizerSettings | Path | str) -> dict:
    """Write a folder of bins; all of it appears at once, or what was there stays.

    `tokens` are settings, to train a tokenizer on this corpus and save it as `<out>/tokenizer`, or
    the folder of one that exists. Returns the manifest. Raises UserError for unusable text.
    """
    documents = corpus.load(data)
    with atomic.folder(out) as folder:
        if isinstance(tokens, TokenizerSettings):
            tok = tokenizer.train(tokens, (document.text for document in documents.documents()))
            tok.save(folder / "tokenizer")
        else:
            tok = tokenizer.load(tokens)
        return bins.write(folder, documents, tok, data.val_fraction)
