"""Trains a tokenizer on a corpus, or makes the one that the settings name."""

import contextlib
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from itertools import chain
from multiprocessing.connection import Connection
from typing import Literal

from tqdm import tqdm

from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.data.tokens.tokenizer import BYTES, BytePairs, Characters, Tokenizer, pieces_from_letters
from nanogpt.runtime.cores import usable_cores
from nanogpt.runtime.errors import UserError

SAMPLE_BYTES = 100_000_000  # of text that bpe learns from: the first of the corpus; more changes hardly a piece
AUTO_SIZES = 512, 16384  # the smallest and the largest vocabulary that auto chooses
REPLACEMENT = "\ufffd"
END = b"\xff"  # no text in UTF-8


def train_tokenizer(settings: TokenizerSettings, *corpora: Iterable[str]) -> Tokenizer:
    """Return a tokenizer of the kind that the settings name, other than auto.

    char learns its characters from all texts of `corpora`, bpe its pieces from their first SAMPLE_BYTES, the same share
    of each; small corpora may give bpe fewer tokens than `vocab_size`. Raises UserError where gpt2's vocabulary can be
    neither found nor fetched, or the training of bpe is ended by the system.
    """
    if settings.kind == "gpt2":
        return BytePairs("gpt2", _gpt2())
    if settings.kind == "byte":
        return BytePairs("byte", BYTES)
    if settings.kind == "bpe":
        share = SAMPLE_BYTES / len(corpora)
        texts = chain.from_iterable(_read_with_progress(texts, share) for texts in corpora)
        return BytePairs("bpe", _train_bpe(settings.vocab_size, texts))
    characters: set[str] = set()
    for text in _read_with_progress(chain.from_iterable(corpora), math.inf):
        characters.update(text)
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


def choose_vocab_size(n_bytes: int) -> int:
    """Return the power of two next to twice the square root of the size of a text in bytes, within AUTO_SIZES.

    The number of different words in a text grows about as fast (Heaps' law).
    """
    least, most = AUTO_SIZES
    return min(max(2 ** round(math.log2(2 * math.sqrt(n_bytes))), least), most)


def _train_bpe(vocab_size: int | Literal["auto"], texts: Iterable[str]) -> list[bytes]:
    """The pieces in order of rank, learned in a process that is killed where this one is interrupted.

    `tokenizers` handles no signal while it trains. A smaller vocabulary is the beginning of a larger one, so that
    auto can be cut to its size when all text has been read.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    count = (AUTO_SIZES[1] if vocab_size == "auto" else vocab_size) - 1
    process = context.Process(target=_learn_pieces, args=[theirs, count], daemon=True)
    process.start()
    theirs.close()
    try:
        n_bytes = 0
        for text in texts:
            n_bytes += len(data := text.encode())
            ours.send_bytes(data)
        ours.send_bytes(END)
        pieces = pieces_from_letters(ours.recv())
        return pieces[: choose_vocab_size(n_bytes) - 1] if vocab_size == "auto" else pieces
    except (EOFError, ConnectionError):
        process.join()
        raise UserError(
            f"the training of the tokenizer ended with status {process.exitcode}; is there enough memory? lower "
            "tokenizer.vocab_size, or choose tokenizer.kind: byte"
        ) from None
    finally:
        process.kill()


def _learn_pieces(pipe: Connection, count: int) -> None:
    """Receive texts until END, train byte pairs, and send the pieces in order of rank, in GPT-2's visible letters."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent decides
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    os.environ |= {"RAYON_NUM_THREADS": str(usable_cores()), "TOKENIZERS_PARALLELISM": "true"}
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=count, min_frequency=2, initial_alphabet=alphabet, show_progress=False)
    with contextlib.suppress(EOFError):  # the parent is gone
        texts = (text.decode() for text in iter(pipe.recv_bytes, END))
        tokenizer.train_from_iterator(texts, trainer)
        vocab = tokenizer.get_vocab()
        pipe.send(sorted(vocab, key=vocab.get))


def _exit_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _read_with_progress(texts: Iterable[str], limit: float) -> Iterator[str]:
    """The texts up to and with the one that reaches `limit` bytes of UTF-8."""
    read = 0
    with tqdm(desc="text to vocabulary", unit="B", unit_scale=True, mininterval=1, disable=None) as bar:
        for text in texts:
            yield text
            size = len(text.encode())
            bar.update(size)
            read += size
            if read >= limit:
                break
