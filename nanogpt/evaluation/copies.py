"""The longest runs of tokens that texts share with another, much longer one: how much was copied."""

from collections.abc import Sequence

import numpy as np
from pydivsufsort import divsufsort, kasai


def longest_copies(texts: Sequence[np.ndarray], source: np.ndarray) -> list[tuple[int, int]]:
    """The longest run of each text that is somewhere in `source` too, as (start, end); the first of several.

    `texts` and `source` are arrays of token ids, (n,). In a suffix array of all of them the run that a place of a text
    shares with the source is the one it shares with its nearest neighbours of the source (Manber and Myers 1993).
    Takes about a second and 20 MB for each million tokens.
    """
    separator = max(array.max(initial=0) for array in (source, *texts)) + 1
    joined = np.concatenate([source, [separator], *texts]).astype(np.uint16 if separator < 2**16 else np.uint32)
    order = divsufsort(joined)
    common = kasai(joined, order)  # of each suffix with the next in order
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order), dtype=order.dtype)
    found, start = [], len(source) + 1
    for text in texts:
        best, end = (0, 0), start + len(text)
        for place in range(start, end):
            length = min(_shared_with_source(rank[place], order, common, len(source)), end - place)
            if length > best[1] - best[0]:
                best = (place - start, place - start + length)
        found.append(best)
        start = end
    return found


def _shared_with_source(rank: int, order: np.ndarray, common: np.ndarray, source_length: int) -> int:
    """How much the suffix of a rank shares with the suffixes of the source that are nearest to it in order."""
    longest = 0
    for step, offset in ((-1, -1), (1, 0)):
        length, at = len(order), int(rank)
        while 0 <= at + step < len(order) and length > longest:
            length, at = min(length, int(common[at + offset])), at + step
            if order[at] < source_length:
                longest = max(longest, length)
                break
    return longest
