"""From a corpus to a folder that training reads: token bins, their manifest, the tokenizer."""

from collections import Counter
from pathlib import Path

from nanogpt import atomic, bins, tokenizer
from nanogpt.corpus import Corpus
from nanogpt.tokenizer import Tokenizer, TokenizerSettings

NOTHING = {"README.md"}  # a folder with no more than this holds no checkpoint


def prepare(
    out: Path | str, corpus: Corpus, val_fraction: float, tokens: TokenizerSettings | Tokenizer | Path | str
) -> dict:
    """Write a folder of bins; all of it appears at once, or what was there stays.

    `tokens` are settings, to train a tokenizer on this corpus, or a tokenizer, either saved as
    `<out>/tokenizer`; or the folder of one that belongs to another corpus. Returns the manifest.
    Raises UserError for unusable text.
    """
    with atomic.folder(out) as folder:
        if isinstance(tokens, TokenizerSettings):
            texts = (document.text for document in corpus.documents(Counter()))
            tokens = tokenizer.train(tokens.suited(corpus.tokenizer), texts)
        if isinstance(tokens, Tokenizer):
            tokens.save(folder / "tokenizer")
        else:
            tokens = tokenizer.load(tokens)
        return bins.write(folder, corpus, tokens, val_fraction)


def holds_checkpoint(init_from: Path | str) -> bool:
    """False for a folder without any file but a README.md, which `train.init_from` names by default."""
    path = Path(init_from)
    return not path.is_dir() or not {file.name for file in path.iterdir()} <= NOTHING


def own_tokenizer(init_from: Path | str) -> Tokenizer | None:
    """The tokenizer in a checkpoint's folder, None where there is none. Raises UserError for one we cannot read."""
    return tokenizer.load(init_from) if (Path(init_from) / "tokenizer.json").is_file() else None
