"""Writes bins: a corpus as two flat files of token ids and a manifest, on all cores, in bounded memory.

The stream is eot, document, eot, document, eot ..., as `data/tokens/bins.py` reads it. Repeated texts are removed,
so that none is in both files, unless they belong to the corpus (`Corpus.exact`).
"""

import contextlib
import errno
import json
import math
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import numpy as np
from tqdm import tqdm

from nanogpt.data.prepare.encode import ANY_SPLIT, BATCH_DOCUMENTS, Encoded, encode_documents, token_dtype
from nanogpt.data.prepare.shards import Shards
from nanogpt.data.sources.document import Corpus
from nanogpt.data.tokens.bins import DTYPES, SPLITS, Counts
from nanogpt.data.tokens.tokenizer import Tokenizer
from nanogpt.runtime.checksums import sha256
from nanogpt.runtime.errors import UserError

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


def write_corpus(
    folder: Path, corpus: Corpus, tokenizer: Tokenizer, val_fraction: float, shards: Shards | None = None
) -> dict:
    """Encode a corpus into `train.bin`, `val.bin` and `manifest.json`; return what the manifest says.

    `folder` exists, empty. Where a document does not bring its split, every k-th from the first goes
    to validation, k = max(2, round(1 / val_fraction)). With `shards` the tokens come from there, to the same bins.
    Raises UserError where either side would be empty.
    """
    dtype = token_dtype(tokenizer)
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
        if shards:
            encoded = shards.read(skipped)
        else:
            encoded = encode_documents(corpus.documents(skipped), tokenizer, corpus.chat)
        for tokens, documents, places in _assign_splits(encoded, val_fraction):
            first = _first_copies(documents, places, digests, read, keep=corpus.exact)
            for place, split in enumerate(SPLITS):
                chosen = first & (places == place)
                bins[split].write(tokens[np.repeat(chosen, documents["tokens"])].tobytes())
                if corpus.chat:
                    prompts[split].write(documents["prompt"][chosen].tobytes())
                _add_counts(counts[split], documents[chosen])
            bar.update(int(documents["bytes"].sum()))
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


def _assign_splits(
    encoded: Iterator[Encoded], val_fraction: float
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield tokens and documents, a batch at a time, and each document's place in SPLITS."""
    every, number = max(2, round(1 / val_fraction)), -1
    for tokens, documents in encoded:
        ends = np.cumsum(documents["tokens"], dtype=np.int64)
        for start in range(0, len(documents), BATCH_DOCUMENTS):
            batch = documents[start : start + BATCH_DOCUMENTS]
            # a conversation that goes on stays on its side: its answers so far are in the next one's prompt
            numbers = number + np.cumsum(~batch["continues"])
            number = int(numbers[-1])
            places = np.where(numbers % every, SPLITS.index("train"), SPLITS.index("val"))
            places = np.where(batch["split"] == ANY_SPLIT, places, batch["split"])
            last = ends[start + len(batch) - 1]
            yield tokens[ends[start] - batch["tokens"][0] : last], batch, places


def _first_copies(
    documents: np.ndarray, places: np.ndarray, digests: sqlite3.Connection, read: Counter[str], keep: bool
) -> np.ndarray:
    """(D,) bool: True for each text where it came first; the others are counted in `read`. With `keep` all are True."""
    hashed = [digest.tobytes() for digest in documents["digest"]]
    chosen = np.ones(len(hashed), bool)
    if not keep:
        seen = {digest for (digest,) in digests.execute(FIND_TEXTS.format(_marks("?", hashed)), hashed)}
        first = {digest: i for i, digest in reversed(list(enumerate(hashed))) if digest not in seen}
        chosen[:] = False
        chosen[list(first.values())] = True
        read["repeated"] += len(hashed) - len(first)
    if chosen.any():
        rows = [value for i in np.flatnonzero(chosen) for value in (hashed[i], SPLITS[places[i]])]
        digests.execute(ADD_TEXTS.format(_marks("(?, ?, 1)", rows[::2])), rows)
    return chosen


def _marks(mark: str, values: list) -> str:
    return ", ".join([mark] * len(values))


def _add_counts(counts: Counts, documents: np.ndarray) -> None:
    counts.documents += len(documents)
    counts.tokens += int(documents["tokens"].sum())
    counts.bytes += int(documents["bytes"].sum())
    counts.replaced += int(documents["replaced"].sum())
    bits = documents["bits"].tolist()
    unknown = counts.bits is None or any(map(math.isnan, bits))
    counts.bits = None if unknown else counts.bits + sum(map(Fraction, bits))
