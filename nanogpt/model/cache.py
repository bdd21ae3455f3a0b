"""The key/value cache: what attention has already computed for the tokens so far."""

import torch

from nanogpt.model.config import ModelConfig


class Cache:
    """Keys and values of every layer, each (B, n_kv_head, block_size, head_dim), filled from the left.

    `length` is the number of tokens held. The model adds to it after its last layer.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        heads = config.n_head if config.arch == "base" else config.n_kv_head
        shape = (config.n_layer, batch_size, heads, config.block_size, config.head_dim)
        self.keys, self.values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        self.length = 0

    @property
    def nbytes(self) -> int:
        """Bytes of memory that keys and values take."""
        return self.keys.nbytes + self.values.nbytes

    def update(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store keys and values of new tokens, (B, H, T, D); returns all so far, (B, H, length + T, D)."""
        end = self.length + k.size(2)
        self.keys[layer, :, :, self.length : end] = k
        self.values[layer, :, :, self.length : end] = v
        return self.keys[layer, :, :, :end].to(k.dtype), self.values[layer, :, :, :end].to(v.dtype)
