"""Writes bins: a corpus as two flat files of token ids and a manifest, on all cores, in bounded memory.

The stream is eot, document, eot, document, eot ..., as `data/tokens/bins.py` reads it. Repeated texts are removed,
so that none is in both files, unless they belong to the corpus (`Corpus.exact`).
"""

import hashlib
import json
import math
import tempfile
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from nanogpt.data.prepare import duplicates
from nanogpt.data.sources.document import Corpus, Document
from nanogpt.data.tokens.bins import DTYPES, SPLITS, Counts
from nanogpt.data.tokens.tokenizer import Tokenizer
from nanogpt.hardware.cores import usable_cores
from nanogpt.runtime.errors import UserError

BATCH_DOCUMENTS, BATCH_CHARACTERS = 1000, 1_000_000
CHUNK = 1 << 16  # notes read at a time
PIECE = 1 << 24  # bytes moved at a time
# A record of each document; `split` is its index in SPLITS, `tokens` counts its end token too.
NOTE = np.dtype([("split", "u1"), ("tokens", "i8"), ("bytes", "i8"), ("replaced", "i8"), ("bits", "f8")])


def write_corpus(folder: Path, corpus: Corpus, tokenizer: Tokenizer, val_fraction: float) -> dict:
    """Encode a corpus into `train.bin`, `val.bin` and `manifest.json`; return what the manifest says.

    `folder` exists, empty. Where a document does not bring its split, every k-th from the first goes
    to validation, k = max(2, round(1 / val_fraction)).
    Raises UserError where either side would be empty.
    """
    dtype = "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"
    paths = [folder / f"{split}.bin" for split in SPLITS]
    skipped: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir=folder, prefix=".notes.") as scratch:
        noted, digested = Path(scratch, "notes"), Path(scratch, "digests")
        encoded = _encode_batches(
            _batches(_assign_splits(corpus.documents(skipped), val_fraction)), tokenizer, DTYPES[dtype]
        )
        _write_streams(encoded, paths, noted, digested, np.array([tokenizer.eot], DTYPES[dtype]).tobytes())
        in_val = np.concatenate([notes["split"] == SPLITS.index("val") for notes in _read_notes(noted)])
        repeated = np.zeros(len(in_val), bool) if corpus.exact else duplicates.find_duplicates(digested)
        counts = _keep_documents(noted, paths, ~repeated, np.dtype(DTYPES[dtype]).itemsize)
        overlap = duplicates.count_overlap(digested, in_val, ~repeated)
    train, val = (one.documents for one in counts)
    if not train or not val:
        raise UserError(
            f"{corpus.name}: {train + val} document(s) and {int(repeated.sum())} repeated, {train} of them for "
            f"training and {val} for validation, and each needs one at least; give more documents "
            "(data.<role>.num_samples, or more text; a .txt file needs blank lines or <|endoftext|> lines between them)"
        )
    manifest = {
        "source": corpus.name,
        "revision": corpus.revision,
        "licence": corpus.licence,
        "tokenizer": tokenizer.kind,
        "tokenizer_sha256": tokenizer.sha256,
        "vocab_size": tokenizer.vocab_size,
        "dtype": dtype,
        "documents_read": len(repeated),
        "skipped": dict(sorted(skipped.items())),
        "duplicates_removed": int(repeated.sum()),
        "overlap": overlap,
        "splits": {split: asdict(one) for split, one in zip(SPLITS, counts, strict=True)},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return manifest


def _assign_splits(documents: Iterable[Document], val_fraction: float) -> Iterator[tuple[str, Document]]:
    every = max(2, round(1 / val_fraction))
    return ((document.split or ("train" if i % every else "val"), document) for i, document in enumerate(documents))


def _batches(placed: Iterable[tuple[str, Document]]) -> Iterator[list[tuple[str, Document]]]:
    batch, characters = [], 0
    for place, document in placed:
        batch.append((place, document))
        characters += len(document.text)
        if len(batch) == BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    yield batch


Encoded = tuple[np.ndarray, bytes, list[bytes]]  # notes, digests, what to append to each bin


def _encode_batches(
    batches: Iterable[list[tuple[str, Document]]], tokenizer: Tokenizer, dtype: str
) -> Iterator[Encoded]:
    """Encode the batches on all cores, a few of them at a time; yield them in their order."""
    cores = usable_cores()
    waiting: deque[Future[Encoded]] = deque()
    with ThreadPoolExecutor(cores) as pool:
        for batch in batches:
            waiting.append(pool.submit(_encode_batch, batch, tokenizer, dtype))
            if len(waiting) > 2 * cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _encode_batch(batch: list[tuple[str, Document]], tokenizer: Tokenizer, dtype: str) -> Encoded:
    eot = np.array([tokenizer.eot], np.uint32)
    notes, digests, ids = np.zeros(len(batch), NOTE), [], [[] for _ in SPLITS]
    for i, (place, document) in enumerate(batch):
        split, text, array = SPLITS.index(place), document.text.encode(), tokenizer.encode_array(document.text)
        ids[split] += array, eot
        digests.append(duplicates.digest(text))
        bits = math.nan if document.bits is None else document.bits
        notes[i] = (split, len(array) + 1, len(text), tokenizer.unknown(document.text), bits)
    flat = [np.concatenate(arrays).astype(dtype).tobytes() if arrays else b"" for arrays in ids]
    return notes, b"".join(digests), flat


def _write_streams(encoded: Iterable[Encoded], paths: list[Path], noted: Path, digested: Path, eot: bytes) -> None:
    with ExitStack() as stack:
        notes, digests, *bins = (stack.enter_context(path.open("wb")) for path in (noted, digested, *paths))
        bar = stack.enter_context(tqdm(desc="text to tokens", unit="B", unit_scale=True, mininterval=1, disable=None))
        for file in bins:
            file.write(eot)
        for note, digest, ids in encoded:
            notes.write(note.tobytes())
            digests.write(digest)
            for file, piece in zip(bins, ids, strict=True):
                file.write(piece)
            bar.update(int(note["bytes"].sum()))


def _read_notes(noted: Path) -> Iterator[np.ndarray]:
    with noted.open("rb") as file:
        while len(notes := np.fromfile(file, NOTE, CHUNK)):
            yield notes
    yield np.empty(0, NOTE)


def _keep_documents(noted: Path, paths: list[Path], kept: np.ndarray, itemsize: int) -> list[Counts]:
    """Remove the documents from the bins that are not `kept`, (n,) bool, and count the others."""
    counts, start = [Counts(tokens=1) for _ in paths], 0
    with ExitStack() as stack:
        bins = [FileCompactor(stack.enter_context(path.open("r+b")), itemsize) for path in paths]
        for notes in _read_notes(noted):
            keep = kept[start : start + len(notes)]
            start += len(notes)
            for split, (moved, count) in enumerate(zip(bins, counts, strict=True)):
                in_split = notes["split"] == split
                moved.keep(notes["tokens"][in_split] * itemsize, keep[in_split])
                _add_counts(count, notes[in_split & keep])
        for moved in bins:
            moved.end()
    for path, count in zip(paths, counts, strict=True):
        count.bytes_per_token = count.bytes / count.tokens
        with path.open("rb") as file:
            count.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return counts


def _add_counts(counts: Counts, notes: np.ndarray) -> None:
    counts.documents += len(notes)
    counts.tokens += int(notes["tokens"].sum())
    counts.bytes += int(notes["bytes"].sum())
    counts.replaced += int(notes["replaced"].sum())
    bits = math.nan if counts.bits is None else math.fsum([counts.bits, *notes["bits"]])
    counts.bits = None if math.isnan(bits) else bits


class FileCompactor:
    """Removes records from a file in place: the kept ones move forward over the others."""

    def __init__(self, file: BinaryIO, start: int):
        self._file, self._from, self._to = file, start, start

    def keep(self, sizes: np.ndarray, keep: np.ndarray) -> None:
        """Process the next records, `sizes` (n,) in bytes: keep those where `keep` (n,) is True."""
        edges = np.flatnonzero(np.diff(keep, prepend=False, append=False)).reshape(-1, 2)  # runs of kept ones
        ends = np.concatenate([[0], np.cumsum(sizes)])
        for first, after in edges:
            self._move(self._from + int(ends[first]), int(ends[after] - ends[first]))
        self._from += int(ends[-1])

    def _move(self, start: int, size: int) -> None:
        for offset in range(0, size if start > self._to else 0, PIECE):
            self._file.seek(start + offset)
            piece = self._file.read(min(PIECE, size - offset))
            self._file.seek(self._to + offset)
            self._file.write(piece)
        self._to += size

    def end(self) -> None:
        """Truncate the file after the last kept record."""
        self._file.truncate(self._to)
