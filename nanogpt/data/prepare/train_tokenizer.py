"""Trains a tokenizer on a corpus, or makes the one that the settings name."""

import contextlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.data.tokens.tokenizer import BYTES, BytePairs, Characters, Tokenizer, pieces_from_letters
from nanogpt.runtime.cores import usable_cores
from nanogpt.runtime.errors import UserError

SAMPLE_BYTES = 100_000_000  # of text that bpe learns from: the first of the corpus; more changes hardly a piece
REPLACEMENT = "\ufffd"


def train_tokenizer(settings: TokenizerSettings, texts: Iterable[str]) -> Tokenizer:
    """Return a tokenizer of the kind that the settings name, other than auto.

    char learns its characters from all `texts`, bpe its pieces from their first SAMPLE_BYTES; a small
    corpus may give bpe fewer tokens than `vocab_size`. Raises UserError where gpt2's vocabulary can be
    neither found nor fetched, or the training of bpe is ended by the system.
    """
    if settings.kind == "gpt2":
        return BytePairs("gpt2", _gpt2())
    if settings.kind == "byte":
        return BytePairs("byte", BYTES)
    if settings.kind == "bpe":
        return BytePairs("bpe", _train_bpe(settings.vocab_size, texts))
    characters: set[str] = set()
    for text in _read_with_progress(texts, math.inf):
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


def _train_bpe(vocab_size: int, texts: Iterable[str]) -> list[bytes]:
    """The pieces in order of rank, learned in a process that is killed where this one is interrupted."""
    script = Path(__file__).with_name("train_byte_pairs.py")
    # -P: its folder is no place to import from
    command = [sys.executable, "-P", script, str(vocab_size - 1), str(os.getpid())]
    environment = os.environ | {"RAYON_NUM_THREADS": str(usable_cores()), "TOKENIZERS_PARALLELISM": "true"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    letters = ""
    with (
        contextlib.suppress(BrokenPipeError),  # it has ended: its status says why
        subprocess.Popen(command, env=environment, **pipes) as process,
        contextlib.ExitStack() as interrupted,
    ):
        interrupted.callback(process.kill)
        for text in _read_with_progress(texts, SAMPLE_BYTES):
            process.stdin.write(json.dumps(text) + "\n")
        process.stdin.write("null\n")
        process.stdin.flush()
        letters = process.stdout.read()
        interrupted.pop_all()
    if not letters:
        raise UserError(
            f"the training of the tokenizer ended with status {process.returncode}; is there enough memory? lower "
            "tokenizer.vocab_size, or choose tokenizer.kind: byte"
        )
    return pieces_from_letters(json.loads(letters))


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
