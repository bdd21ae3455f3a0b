"""Trains a tokenizer on a corpus, or makes the one that the settings name."""

from collections.abc import Iterable

from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.data.tokens.tokenizer import BYTES, BytePairs, Characters, Tokenizer, pieces_from_letters
from nanogpt.runtime.errors import UserError

REPLACEMENT = "\ufffd"


def train_tokenizer(settings: TokenizerSettings, texts: Iterable[str]) -> Tokenizer:
    """A tokenizer of the kind the settings name, other than auto; char and bpe learn their vocabulary from `texts`.

    A small corpus may give bpe fewer tokens than `vocab_size`. Raises UserError where gpt2's
    vocabulary can be neither found nor fetched.
    """
    if settings.kind == "gpt2":
        return BytePairs("gpt2", _gpt2())
    if settings.kind == "byte":
        return BytePairs("byte", BYTES)
    if settings.kind == "bpe":
        return BytePairs("bpe", _train_bpe(settings.vocab_size, texts))
    characters = set().union(*texts)
    if settings.unknown == "error":
        return Characters(sorted(characters), None)
    return Characters(sorted(characters | {REPLACEMENT}), REPLACEMENT)


def validate_vocabulary(settings: TokenizerSettings) -> None:
    """Raise UserError where the settings name a vocabulary that cannot be had here."""
    if settings.kind == "gpt2":
        _gpt2()


def _gpt2() -> list[bytes]:
    from tiktoken_ext.openai_public import gpt2

    try:
        ranks = gpt2()["mergeable_ranks"]
    except (OSError, ValueError) as error:  # requests' errors are OSErrors
        raise UserError(
            f"tokenizer.kind = gpt2: its vocabulary is not in tiktoken's cache and cannot be fetched "
            f"({type(error).__name__}); connect to the network once, or set TIKTOKEN_CACHE_DIR to a folder that holds "
            "tiktoken's two GPT-2 files, or choose tokenizer.kind: bpe"
        ) from None
    return sorted(ranks, key=ranks.get)


def _train_bpe(vocab_size: int, texts: Iterable[str]) -> list[bytes]:
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    vocab = tokenizer.get_vocab()
    return pieces_from_letters(sorted(vocab, key=vocab.get))
