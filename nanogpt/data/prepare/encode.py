"""Encodes documents on all cores: their token ids in one array, and what is known of each."""

import hashlib
import math
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from nanogpt.data.sources.document import Document
from nanogpt.data.tokens.bins import DTYPES, SPLITS
from nanogpt.data.tokens.chat import split_answer
from nanogpt.data.tokens.tokenizer import Tokenizer
from nanogpt.runtime.cores import usable_cores

BATCH_DOCUMENTS, BATCH_CHARACTERS = 1000, 1_000_000
DIGEST_SIZE = 16  # bytes: no two of 10^12 texts share a digest by chance, at odds of 10^14 to 1
ANY_SPLIT = -1
# `tokens` counts the end token, `prompt` those before an answer that is learned; `bits` is NaN where unknown, `split` a
# place in SPLITS or ANY_SPLIT. A conversation `continues` if its text begins with that of the document before.
DOCUMENT = np.dtype(
    [("digest", f"V{DIGEST_SIZE}"), ("tokens", "<u4"), ("prompt", "<u4"), ("bytes", "<u4"), ("replaced", "<u4"),
     ("bits", "<f8"), ("split", "i1"), ("continues", "?")]
)  # fmt: skip


class Encoded(NamedTuple):
    """Token ids of documents, each with its end token behind it, and `documents`, (D,) of DOCUMENT."""

    tokens: np.ndarray
    documents: np.ndarray


def token_dtype(tokenizer: Tokenizer) -> str:
    """The dtype of token ids in files, a key of DTYPES."""
    return "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"


def encode_documents(documents: Iterable[Document], tokenizer: Tokenizer, chat: bool) -> Iterator[Encoded]:
    """Encode documents in batches, a few at a time on all cores; yield them in their order."""
    cores, dtype = usable_cores(), DTYPES[token_dtype(tokenizer)]
    waiting: deque[Future[Encoded]] = deque()
    with ThreadPoolExecutor(cores) as pool:
        for batch in _batches(documents, chat):
            waiting.append(pool.submit(_encode_batch, batch, tokenizer, dtype, chat))
            if len(waiting) > 2 * cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _batches(documents: Iterable[Document], chat: bool) -> Iterator[list[tuple[Document, bool]]]:
    batch, characters, before = [], 0, "\0"
    for document in documents:
        batch.append((document, chat and document.text.startswith(before)))
        before = document.text
        characters += len(document.text)
        if len(batch) == BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _encode_batch(batch: list[tuple[Document, bool]], tokenizer: Tokenizer, dtype: str, chat: bool) -> Encoded:
    found, end, known = [], np.array([tokenizer.eot]), []
    for document, continues in batch:
        # a context and its answer are encoded apart, as they are when the model writes the answer
        parts = [tokenizer.encode_array(part) for part in (split_answer(document.text) if chat else [document.text])]
        text = document.text.encode()
        digest = hashlib.blake2b(text, digest_size=DIGEST_SIZE).digest()
        lengths = sum(map(len, parts)) + 1, len(parts[0]) if chat else 0, len(text)
        bits = math.nan if document.bits is None else document.bits
        split = SPLITS.index(document.split) if document.split else ANY_SPLIT
        known.append((digest, *lengths, tokenizer.unknown(document.text), bits, split, continues))
        found += *parts, end
    return Encoded(np.concatenate(found).astype(dtype), np.array(known, DOCUMENT))
