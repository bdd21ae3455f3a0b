"""A model's forward pass for decoding: packed weights, and a cache of keys and values with a slot for each text."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt.inference.blocks import pack_model
from nanogpt.inference.compiled import CompiledProduct
from nanogpt.inference.compiled_pass import CompiledPass
from nanogpt.inference.products import WeightDtype
from nanogpt.model.attention import causal_attention
from nanogpt.model.config import ModelConfig
from nanogpt.model.language_model import LanguageModel

TOGETHER = 256  # tokens that are read in one call of compiled code
Attend = Callable[[int, Tensor], Tensor]  # (layer, queries (N, H, D)) to (N, H, D)


class Part(NamedTuple):
    """Tokens of a text that are read: the first of them at position `start` of a slot."""

    ids: Sequence[int]
    slot: int
    start: int


class Decoder:
    """A model with constant weights in `dtype`, and the keys and values of the texts in its slots, in fp32.

    `read` and `step` give the same logits as a full pass of the model, to rounding. The model may not have an adapter
    on it: `nanogpt.lora.merge.open_finetuned` merges it.
    """

    def __init__(self, model: LanguageModel, n_tokens: int, dtype: WeightDtype = "float32"):
        self.config = model.config
        self.weights = pack_model(model, n_tokens, dtype)
        self.device = self.weights.embedding.device
        self.compiled = CompiledPass(self.weights) if isinstance(self.weights.head, CompiledProduct) else None
        shape = (self.config.n_layer, 0, self.config.block_size, 2 * self.config.kv_heads, self.config.head_dim)
        self.cache = torch.zeros(shape, device=self.device)
        self.reserve(1)

    @property
    def slots(self) -> int:
        """How many texts there is room for."""
        return self.cache.size(1)

    @torch.inference_mode()
    def reserve(self, slots: int) -> None:
        """Make room for at least so many texts; what the slots hold stays."""
        if slots <= self.slots:
            return
        layers, held, *shape = self.cache.shape
        # Zeros, not torch.empty: attention multiplies what lies beyond a text by 0, and 0 times NaN is NaN.
        self.cache = torch.cat([self.cache, torch.zeros(layers, slots - held, *shape, device=self.device)], dim=1)
        self.rows = [layer.flatten(0, 1) for layer in self.cache]  # each (slots * block, 2 H_kv, D)

    @torch.inference_mode()
    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one slot to another."""
        self.cache[:, target, :length] = self.cache[:, source, :length]

    @torch.inference_mode()
    def swap(self, a: int, b: int, length: int) -> None:
        """Exchange the first `length` positions of two slots."""
        if a != b:
            self.cache[:, [a, b], :length] = self.cache[:, [b, a], :length]

    @torch.inference_mode()
    def read(self, parts: Sequence[Part]) -> None:
        """Store the keys and values of parts of texts, each of another slot, after what that holds before them."""
        rows: list[tuple[int, int, int]] = []  # id, slot and position
        for ids, slot, start in parts:
            if self.compiled and len(ids) <= TOGETHER:
                rows += [(id, slot, start + i) for i, id in enumerate(ids)]
            elif ids:  # where attention takes most of the time, torch's is faster
                self._read(ids, slot, start)
        for first in range(0, len(rows), TOGETHER):
            self.compiled(*zip(*rows[first : first + TOGETHER], strict=True), self.cache, head=False)

    def _read(self, ids: Sequence[int], slot: int, start: int) -> None:
        held = self.cache[:, slot : slot + 1, : start + len(ids)].transpose(2, 3)  # (L, 1, 2 H_kv, S, D)

        def attend(layer: int, q: Tensor) -> Tensor:
            k, v = held[layer].chunk(2, dim=1)
            return causal_attention(q.transpose(0, 1)[None], k, v, 0.0)[0].transpose(0, 1)

        positions = torch.arange(start, start + len(ids), device=self.device)
        self._hidden(ids, positions, positions + slot * self.config.block_size, attend)

    @torch.inference_mode()
    def step(self, ids: Sequence[int], positions: Sequence[int]) -> Tensor:
        """Logits (N, n_tokens rounded up) after one more token in each of the first N slots; the rest is -inf.

        `positions[i]` is how many tokens slot i holds before it.
        """
        if self.compiled:
            return self.compiled(ids, range(len(ids)), positions, self.cache, head=True)
        N, S = len(ids), max(positions) + 1
        held = self.cache[:, :N, :S].transpose(2, 3).chunk(2, dim=2)  # each (L, N, H_kv, S, D)
        keys, values = (part.unbind() for part in held)
        at = torch.tensor(positions, device=self.device)
        mask = None
        if min(positions) + 1 < S:
            beyond = torch.arange(S, device=self.device) > at[:, None]
            mask = torch.zeros(N, S, device=self.device).masked_fill_(beyond, -torch.inf)[:, None, None]

        def attend(layer: int, q: Tensor) -> Tensor:
            # One position sees every key, so a group's queries can take the place of positions.
            grouped = q.reshape(N, self.config.kv_heads, -1, self.config.head_dim)
            return F.scaled_dot_product_attention(grouped, keys[layer], values[layer], mask)

        slots = torch.arange(N, device=self.device) * self.config.block_size + at
        return self.weights.head(self._hidden(ids, at, slots, attend))

    def _hidden(self, ids: Sequence[int], positions: Tensor, slots: Tensor, attend: Attend) -> Tensor:
        """Hidden states before the head, (N, C), of tokens whose keys and values go to the rows `slots` of a layer."""
        N, H, D, weights = len(ids), self.config.n_head, self.config.head_dim, self.weights
        x = weights.embedding[torch.tensor(ids, device=self.device)]  # (N, C), with RMSNorm (N, C + 1)
        if weights.positions is not None:
            x += weights.positions[positions]
        C = self.config.n_embd
        residual = x[:, :C]
        rotations = None if weights.rotations is None else weights.rotations[positions]
        for layer, block in enumerate(weights.blocks):
            qkv = block.qkv(block.norm_1(residual, x)).view(N, -1, D)  # (N, H + 2 H_kv, D)
            if block.head_gains is not None:
                turned = qkv[:, : len(block.head_gains)]
                turned.copy_(F.rms_norm(turned, (D,), None, self.config.norm_eps) * block.head_gains)
            if rotations is not None:
                torch.view_as_complex(qkv.view(N, -1, D // 2, 2)).mul_(rotations)
            self.rows[layer].index_copy_(0, slots, qkv[:, H:])
            residual += block.out(attend(layer, qkv[:, :H]).reshape(N, C))
            residual += block.down(ACTIVATIONS[block.activation](block.up(block.norm_2(residual, x))))
        return weights.final_norm(residual, x)


def cache_mib(config: ModelConfig) -> float:
    """MiB of keys and values in fp32 that one text takes at the model's block size."""
    return 2 * config.n_layer * config.block_size * config.kv_heads * config.head_dim * 4 / 2**20


def _swiglu(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


ACTIVATIONS = {"swiglu": _swiglu, "gelu": F.gelu, "gelu_tanh": partial(F.gelu, approximate="tanh")}
