"""Batches of one bin or two whose order is a pure function of (seed, sample number).

So there is nothing to save for resuming, and the order does not depend on the batch size.
"""

from typing import TYPE_CHECKING

import numpy as np

from nanogpt.data.tokens.bins import Bin
from nanogpt.runtime.errors import UserError

if TYPE_CHECKING:
    import torch

IGNORED = -100  # a target that is not learned: torch's `ignore_index`


class Windows:
    """Batches of a bin in an order that depends on the seed and the sample's number alone.

    An epoch cuts the stream into windows of `block_size` tokens from a random offset, and yields `per_epoch` of them in
    random order. They follow each other without overlap; with `whole_documents` each starts at the first document that
    the one before it did not hold to its end, so that a model sees how a document begins before it learns how it goes
    on, and text is read twice where it was cut off. A longer document goes on where the window ended. Conversations are
    whole always. `document_start` is the end token where a model is to see each document alone, else None. Sample i is
    window i % per_epoch of epoch i // per_epoch. Raises UserError where the bin is too short for one window and its
    last target.
    """

    def __init__(self, data: Bin, block_size: int, seed: int, whole_documents: bool = False):
        if len(data) <= block_size:
            share = "a greater data.<role>.val_fraction, " if data.split == "val" else ""
            raise UserError(
                f"{data.split}.bin of {data.source} has {len(data)} tokens, and a window of model.block_size = "
                f"{block_size} needs {block_size + 1}; choose a smaller model.block_size, {share}or give more text"
            )
        whole_documents |= data.prompts is not None
        self.bin, self.block_size, self.seed = data, block_size, seed
        self.document_start = data.eot if whole_documents else None
        self._ends = data.ends() if whole_documents else None
        self._offsets = min(block_size, len(data) - block_size)  # so many are possible
        self.per_epoch = len(self._cut(self._offsets - 1))  # the last offset leaves room for the fewest
        self._epoch, self._starts = -1, np.empty(0, np.int64)

    def starts(self, samples: np.ndarray) -> np.ndarray:
        """(n,) int64 sample numbers to the (n,) int64 positions where their windows start."""
        epochs, places = np.divmod(samples, self.per_epoch)
        return np.array([self._order(e)[p] for e, p in zip(epochs.tolist(), places.tolist(), strict=True)], np.int64)

    def rows(self, samples: np.ndarray) -> np.ndarray:
        """(n,) int64 sample numbers to (n, 2, block_size) int64: the tokens of their windows, and the targets.

        A target is the next token, or IGNORED where it belongs to a prompt.
        """
        T, learned = self.block_size, self.bin.learned
        rows = np.empty((len(samples), 2, T), np.int64)
        for row, start in zip(rows, self.starts(samples), strict=True):
            window = self.bin.tokens[start : start + T + 1]
            row[0], row[1] = window[:-1], window[1:]
            if learned is not None:
                row[1, ~learned[start + 1 : start + T + 1]] = IGNORED
        return rows

    def batch(self, step: int, batch_size: int) -> tuple["torch.Tensor", "torch.Tensor"]:
        """Inputs and targets of a step, each (batch_size, block_size) int64."""
        return _to_tensors(self.rows(step * batch_size + np.arange(batch_size)))

    def _order(self, epoch: int) -> np.ndarray:
        """(per_epoch,) int64 window starts of an epoch; the last epoch asked for is kept."""
        if epoch != self._epoch:
            random = np.random.default_rng([self.seed, epoch])
            starts = self._cut(int(random.integers(self._offsets)))
            self._epoch, self._starts = epoch, random.permutation(starts)[: self.per_epoch]
        return self._starts

    def _cut(self, offset: int) -> np.ndarray:
        """int64 starts of all windows from `offset` on, the last targets within the bin."""
        T = self.block_size
        if self._ends is None:
            return np.arange(offset, len(self.bin) - T, T)
        starts, last = [offset], len(self.bin) - T - 1
        while starts[-1] < last:
            start = starts[-1] + T
            # the end token of the last whole document is where the next one starts
            end = int(self._ends[np.searchsorted(self._ends, start, side="right") - 1])
            starts.append(min(last, end if end > starts[-1] else start))
        return np.array(starts, np.int64)


class Replay:
    """Windows of a new text, among which those of an old one are spread evenly: `share` of all, from 0 to below 1.

    Of the first n samples, floor(n * share) are of the old text, each text in its own order.
    """

    def __init__(self, new: Windows, old: Windows, share: float):
        self.new, self.old, self.share = new, old, share
        self.block_size, self.document_start = new.block_size, new.document_start

    def rows(self, samples: np.ndarray) -> np.ndarray:
        """(n,) int64 sample numbers to (n, 2, block_size) int64, as `Windows.rows` does."""
        before, after = (np.floor(n * self.share).astype(np.int64) for n in (samples, samples + 1))
        replayed = after > before
        rows = np.empty((len(samples), 2, self.block_size), np.int64)
        rows[replayed] = self.old.rows(before[replayed])
        rows[~replayed] = self.new.rows((samples - before)[~replayed])
        return rows

    def batch(self, step: int, batch_size: int) -> tuple["torch.Tensor", "torch.Tensor"]:
        """Inputs and targets of a step, each (batch_size, block_size) int64."""
        return _to_tensors(self.rows(step * batch_size + np.arange(batch_size)))


def _to_tensors(rows: np.ndarray) -> tuple["torch.Tensor", "torch.Tensor"]:
    import torch  # here, so that the stage that writes bins starts without it

    return torch.from_numpy(np.ascontiguousarray(rows[:, 0])), torch.from_numpy(np.ascontiguousarray(rows[:, 1]))
