"""Finds repeated texts of a corpus by their digests, which lie in a file, in bounded memory.

The file is read several times, each time for the share of the digests that fits in memory; only a byte or two
per document grow with the corpus.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

SIZE = 16  # bytes of a digest: no two of 10^12 texts share one by chance, at odds of 10^14 to 1
SHARE = 1 << 17  # digests compared at a time


def digest(text: bytes) -> bytes:
    """Return the BLAKE2b hash of a text, SIZE bytes."""
    return hashlib.blake2b(text, digest_size=SIZE).digest()


def find_duplicates(path: Path) -> np.ndarray:
    """Return for a file of n digests an (n,) bool array: True where an earlier digest is the same."""
    repeated = np.ones(_count_digests(path), bool)
    for places, digests in _read_by_share(path):
        repeated[places[np.unique(digests, return_index=True)[1]]] = False  # the first of each
    return repeated


def count_overlap(path: Path, val: np.ndarray, kept: np.ndarray) -> int:
    """Count the validation texts that are training texts too. `val` and `kept` are (n,) bool; only kept texts count."""
    shared = 0
    for places, digests in _read_by_share(path):
        here, validating = kept[places], val[places]
        shared += int(np.isin(digests[here & validating], digests[here & ~validating]).sum())
    return shared


def _read_by_share(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places and digests, in the order of the file, such that equal digests come in one share."""
    shares = -(-_count_digests(path) // SHARE)
    for share in range(shares):
        places, digests = [np.empty(0, np.int64)], [np.empty(0, f"S{SIZE}")]
        with path.open("rb") as file:
            start = 0
            while len(rows := np.fromfile(file, (np.uint8, SIZE), SHARE)):
                mine = np.flatnonzero(rows[:, :2].copy().view(np.uint16)[:, 0] % shares == share)
                places.append(mine + start)
                digests.append(rows[mine].view(f"S{SIZE}")[:, 0])
                start += len(rows)
        yield np.concatenate(places), np.concatenate(digests)


def _count_digests(path: Path) -> int:
    return path.stat().st_size // SIZE
