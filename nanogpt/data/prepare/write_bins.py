"""Writes bins: a corpus as two flat files of token ids and a manifest, on all cores, in bounded memory.

The stream is eot, document, eot, document, eot ..., as `data/tokens/bins.py` reads it. Repeated texts are removed,
so that none is in both files, unless they belong to the corpus (`Corpus.exact`).
"""

import contextlib
import errno
import hashlib
import json
import sqlite3
import tempfile
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import numpy as np
from tqdm import tqdm

from nanogpt.data.sources.document import Corpus, Document
from nanogpt.data.tokens.bins import DTYPES, SPLITS, Counts
from nanogpt.data.tokens.chat import split_answer
from nanogpt.data.tokens.tokenizer import Tokenizer
from nanogpt.runtime.checksums import sha256
from nanogpt.runtime.cores import usable_cores
from nanogpt.runtime.errors import UserError

BATCH_DOCUMENTS, BATCH_CHARACTERS = 1000, 1_000_000
DIGEST_SIZE = 16  # bytes: no two of 10^12 texts share a digest by chance, at odds of 10^14 to 1
# The table is a temporary file; at most 100,000 KiB of it are in memory.
CREATE_TABLE = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -100000;
CREATE TABLE texts (digest BLOB, split TEXT, copies INTEGER, PRIMARY KEY (digest, split)) WITHOUT ROWID;
"""
# A batch of texts at a time: each statement hands Python's lock to the threads that encode.
FIND_TEXTS = "SELECT DISTINCT digest FROM texts WHERE digest IN ({})"
ADD_TEXTS = "INSERT INTO texts VALUES {} ON CONFLICT DO UPDATE SET copies = copies + 1"
COUNT_OVERLAP = """
SELECT coalesce(sum(val.copies), 0) FROM texts AS val JOIN texts AS train USING (digest)
WHERE val.split = 'val' AND train.split = 'train'
"""


def write_corpus(folder: Path, corpus: Corpus, tokenizer: Tokenizer, val_fraction: float) -> dict:
    """Encode a corpus into `train.bin`, `val.bin` and `manifest.json`; return what the manifest says.

    `folder` exists, empty. Where a document does not bring its split, every k-th from the first goes
    to validation, k = max(2, round(1 / val_fraction)).
    Raises UserError where either side would be empty.
    """
    dtype = "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"
    paths = {split: folder / f"{split}.bin" for split in SPLITS}
    prompt_paths = {split: folder / f"{split}-prompts.bin" for split in SPLITS if corpus.chat}
    counts = {split: Counts(tokens=1, bits=Fraction()) for split in SPLITS}  # fractions add up without rounding
    skipped, read = Counter[str](), Counter[str]()
    with contextlib.ExitStack() as stack:
        digests = stack.enter_context(_open_digests(folder))
        bins = {split: stack.enter_context(path.open("wb")) for split, path in paths.items()}
        prompts = {split: stack.enter_context(path.open("wb")) for split, path in prompt_paths.items()}
        bar = stack.enter_context(tqdm(desc="text to tokens", unit="B", unit_scale=True, mininterval=1, disable=None))
        for file in bins.values():
            file.write(np.array([tokenizer.eot], DTYPES[dtype]).tobytes())
        placed = _assign_splits(corpus.documents(skipped), val_fraction, corpus.chat)
        new = (_remove_repeated(batch, digests, read, keep=corpus.exact) for batch in _batches(placed))
        for encoded in _encode_batches(new, tokenizer, DTYPES[dtype], corpus.chat):
            for split, (ids, lengths, counted) in encoded.items():
                bins[split].write(ids)
                if corpus.chat:
                    prompts[split].write(lengths)
                _add_counts(counts[split], counted)
                bar.update(counted.bytes)
        overlap = digests.execute(COUNT_OVERLAP).fetchone()[0]
    train, val = (counts[split].documents for split in SPLITS)
    if not train or not val:
        raise UserError(
            f"{corpus.name}: {train + val} document(s) and {read['repeated']} repeated, {train} of them for "
            f"training and {val} for validation, and each needs one at least; give more documents "
            "(data.<role>.num_samples, or more text; a .txt file needs blank lines or <|endoftext|> lines between them)"
        )
    for split, count in counts.items():
        count.bits = None if count.bits is None else float(count.bits)
        count.bytes_per_token = count.bytes / count.tokens
        count.sha256 = sha256(paths[split])
        count.prompts_sha256 = sha256(prompt_paths[split]) if corpus.chat else ""
    manifest = {
        "source": corpus.name,
        "revision": corpus.revision,
        "licence": corpus.licence,
        "tokenizer": tokenizer.kind,
        "tokenizer_sha256": tokenizer.sha256,
        "vocab_size": tokenizer.vocab_size,
        "dtype": dtype,
        "documents_read": train + val + read["repeated"],
        "skipped": dict(sorted(skipped.items())),
        "duplicates_removed": read["repeated"],
        "overlap": overlap,
        "splits": {split: asdict(count) for split, count in counts.items()},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return manifest


@contextlib.contextmanager
def _open_digests(folder: Path) -> Iterator[sqlite3.Connection]:
    """Open an empty table of the digests of texts, removed at the end. Raises OSError where the disk is full."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".digests.") as scratch:
        try:
            with contextlib.closing(sqlite3.connect(Path(scratch, "digests"))) as digests:
                digests.executescript(CREATE_TABLE)
                yield digests
        except sqlite3.OperationalError as error:
            number = errno.ENOSPC if error.sqlite_errorcode == sqlite3.SQLITE_FULL else errno.EIO
            raise OSError(number, str(error), str(folder)) from None


def _assign_splits(documents: Iterable[Document], val_fraction: float, chat: bool) -> Iterator[tuple[str, Document]]:
    every, number, before = max(2, round(1 / val_fraction)), -1, "\0"
    for document in documents:
        # a conversation that goes on stays on its side: its answers so far are in the next one's prompt
        number += not (chat and document.text.startswith(before))
        before = document.text
        yield document.split or ("train" if number % every else "val"), document


def _remove_repeated(
    batch: list[tuple[str, Document]], digests: sqlite3.Connection, read: Counter[str], keep: bool
) -> list[tuple[str, Document]]:
    """Leave each text where it came first, and count the others in `read`; with `keep` leave all."""
    hashed = [hashlib.blake2b(document.text.encode(), digest_size=DIGEST_SIZE).digest() for _, document in batch]
    if not keep:
        seen = {digest for (digest,) in digests.execute(FIND_TEXTS.format(_marks("?", hashed)), hashed)}
        first = {digest: i for i, digest in reversed(list(enumerate(hashed))) if digest not in seen}
        places = sorted(first.values())
        read["repeated"] += len(batch) - len(places)
        batch, hashed = [batch[i] for i in places], [hashed[i] for i in places]
    if batch:
        rows = [value for (split, _), digest in zip(batch, hashed, strict=True) for value in (digest, split)]
        digests.execute(ADD_TEXTS.format(_marks("(?, ?, 1)", batch)), rows)
    return batch


def _marks(mark: str, values: list) -> str:
    return ", ".join([mark] * len(values))


def _batches(placed: Iterable[tuple[str, Document]]) -> Iterator[list[tuple[str, Document]]]:
    batch, characters = [], 0
    for split, document in placed:
        batch.append((split, document))
        characters += len(document.text)
        if len(batch) == BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    yield batch


# For each split what to append to its bin and to its prompts, and what that holds.
Encoded = dict[str, tuple[bytes, bytes, Counts]]


def _encode_batches(
    batches: Iterable[list[tuple[str, Document]]], tokenizer: Tokenizer, dtype: str, chat: bool
) -> Iterator[Encoded]:
    """Encode the batches on all cores, a few of them at a time; yield them in their order."""
    cores = usable_cores()
    waiting: deque[Future[Encoded]] = deque()
    with ThreadPoolExecutor(cores) as pool:
        for batch in batches:
            waiting.append(pool.submit(_encode_batch, batch, tokenizer, dtype, chat))
            if len(waiting) > 2 * cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _encode_batch(batch: list[tuple[str, Document]], tokenizer: Tokenizer, dtype: str, chat: bool) -> Encoded:
    ids: dict[str, list[np.ndarray]] = {split: [np.empty(0, np.uint32)] for split in SPLITS}
    prompts: dict[str, list[int]] = {split: [] for split in SPLITS}
    counts = {split: Counts(bits=Fraction()) for split in SPLITS}
    for split, document in batch:
        # a context and its answer are encoded apart, as they are when the model writes the answer
        parts = [tokenizer.encode_array(part) for part in (split_answer(document.text) if chat else [document.text])]
        array = np.concatenate(parts)
        prompts[split].append(len(parts[0]))
        ids[split] += array, np.array([tokenizer.eot], np.uint32)
        bits = None if document.bits is None else Fraction(document.bits)
        size, replaced = len(document.text.encode()), tokenizer.unknown(document.text)
        _add_counts(counts[split], Counts(1, len(array) + 1, size, bits, replaced))
    return {
        split: (
            np.concatenate(ids[split]).astype(dtype).tobytes(), np.array(prompts[split], "<u4").tobytes(), counts[split]
        )
        for split in SPLITS
    }  # fmt: skip


def _add_counts(counts: Counts, more: Counts) -> None:
    counts.documents += more.documents
    counts.tokens += more.tokens
    counts.bytes += more.bytes
    counts.replaced += more.replaced
    counts.bits = None if counts.bits is None or more.bits is None else counts.bits + more.bits
