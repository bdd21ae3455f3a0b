"""Batches of a bin whose order is a pure function of (seed, sample number).

So there is nothing to save for resuming, and the order does not depend on the batch size.
"""

from typing import TYPE_CHECKING

import numpy as np

from nanogpt.data.tokens.bins import Bin
from nanogpt.runtime.errors import UserError

if TYPE_CHECKING:
    import torch


class Windows:
    """Batches of a bin in an order that depends on the seed and the sample's number alone.

    An epoch cuts the stream into `per_epoch` windows of `block_size` tokens that do not overlap, from
    a random offset, and yields each once. Sample i is window i % per_epoch, in the order of epoch
    i // per_epoch. Raises UserError where the bin is too short for one window and its last target.
    """

    def __init__(self, data: Bin, block_size: int, seed: int):
        if len(data) <= block_size:
            share = "a greater data.<role>.val_fraction, " if data.split == "val" else ""
            raise UserError(
                f"{data.split}.bin of {data.source} has {len(data)} tokens, and a window of model.block_size = "
                f"{block_size} needs {block_size + 1}; choose a smaller model.block_size, {share}or give more text"
            )
        self.bin, self.block_size, self.seed = data, block_size, seed
        # one window less than would fit leaves room to shift the cuts, so that in time every token is seen
        self.per_epoch = max(1, len(data) // block_size - 1)
        self._epoch, self._starts = -1, np.empty(0, np.int64)

    def starts(self, samples: np.ndarray) -> np.ndarray:
        """(n,) int64 sample numbers to the (n,) int64 positions where their windows start."""
        epochs, places = np.divmod(samples, self.per_epoch)
        return np.array([self._order(e)[p] for e, p in zip(epochs.tolist(), places.tolist(), strict=True)], np.int64)

    def batch(self, step: int, batch_size: int) -> tuple["torch.Tensor", "torch.Tensor"]:
        """Inputs and targets of a step, each (batch_size, block_size) int64."""
        import torch  # here, so that the stage that writes bins starts without it

        starts = self.starts(step * batch_size + np.arange(batch_size))
        rows = np.stack([self.bin.tokens[start : start + self.block_size + 1] for start in starts])  # (B, T + 1)
        rows = torch.from_numpy(rows.astype(np.int64))
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def _order(self, epoch: int) -> np.ndarray:
        """(per_epoch,) int64 window starts of an epoch; the last epoch asked for is kept."""
        if epoch != self._epoch:
            T, n = self.block_size, self.per_epoch
            random = np.random.default_rng([self.seed, epoch])
            offset = random.integers(len(self.bin) - n * T)  # the last target is at most the last token
            self._epoch, self._starts = epoch, random.permutation(n) * T + offset
        return self._starts
