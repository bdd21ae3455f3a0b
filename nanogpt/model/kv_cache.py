"""A cache of the keys and values of earlier positions, so that decoding does not compute them again."""

import torch
from torch import Tensor

from nanogpt.model.config import ModelConfig


class KVCache:
    """Keys and values of every layer for up to `block_size` tokens, allocated once.

    The model adds each layer's with `update` and increases `length` at the end of its forward pass; `length = 0`
    empties the cache for reuse. With fewer key/value heads than query heads it is smaller in proportion
    (Shazeer 2019, https://arxiv.org/abs/1911.02150).
    """

    def __init__(self, config: ModelConfig, batch_size: int, dtype=torch.float32, device: torch.device | str = "cpu"):
        shape = (2, config.n_layer, batch_size, config.kv_heads, config.block_size, config.head_dim)
        # Zeros, not torch.empty: a row that is read by mistake should not be a NaN in some runs only.
        self.keys, self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.length = 0

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add k and v (B, heads, T, head_dim) of `layer`; return all of that layer, (B, heads, length + T, head_dim).

        Raises ValueError if they do not fit: the caller decides what to drop.
        """
        end = self.length + k.size(2)
        if end > self.keys.size(3):
            raise ValueError(f"{end} tokens do not fit a cache of {self.keys.size(3)}")
        self.keys[layer, :, :, self.length : end] = k
        self.values[layer, :, :, self.length : end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    @property
    def nbytes(self) -> int:
        """Size of the cache in bytes."""
        return self.keys.nbytes + self.values.nbytes
