"""Which texts of a corpus were there before, told by their digests in a file, in bounded memory.

The file is read in as many rounds as keep one round's share of the digests small; a byte or two a
document is all that grows.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

SIZE = 16  # bytes of a digest: no two of 10^12 texts share one by chance, at odds of 10^14 to 1
SHARE = 1 << 17  # digests compared at a time


def digest(text: bytes) -> bytes:
    """What stands for a text: SIZE bytes of its BLAKE2b."""
    return hashlib.blake2b(text, digest_size=SIZE).digest()


def find_duplicates(path: Path) -> np.ndarray:
    """(n,) bool for a file of n digests: True where an earlier one is the same."""
    again = np.ones(_count_digests(path), bool)
    for places, digests in _read_by_share(path):
        again[places[np.unique(digests, return_index=True)[1]]] = False  # the first of each
    return again


def count_overlap(path: Path, val: np.ndarray, kept: np.ndarray) -> int:
    """How many kept validation texts are kept training texts too; `val` and `kept` are (n,) bool."""
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
