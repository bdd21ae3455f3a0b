"""The forward pass of a decoder in one call of compiled code (decode.cpp)."""

from collections.abc import Sequence
from ctypes import POINTER, Structure, byref, c_float, c_int64, c_void_p
from typing import get_args

import torch
from torch import Tensor

from nanogpt.inference.blocks import Activation, Norm, PackedWeights
from nanogpt.inference.compiled import ProductStruct, library, pointer


class _Norm(Structure):
    _fields_ = [("weight", c_void_p), ("bias", c_void_p)]


class _Block(Structure):
    _fields_ = [
        ("norm_1", _Norm), ("norm_2", _Norm),
        ("qkv", ProductStruct), ("out", ProductStruct), ("up", ProductStruct), ("down", ProductStruct),
        ("head_gains", c_void_p),
    ]  # fmt: skip


class _Model(Structure):
    _fields_ = [
        ("blocks", POINTER(_Block)), ("head", ProductStruct), ("final_norm", _Norm),
        ("embedding", c_void_p), ("positions", c_void_p), ("rotations", c_void_p),
        *((name, c_int64) for name in (
            "layers", "width", "heads", "kv_heads", "head_dim", "block_size", "embedding_stride", "rotations_stride",
            "activation",
        )),
        ("norm_eps", c_float),
    ]  # fmt: skip


class CompiledPass:
    """The forward pass of packed weights whose products are all a CompiledProduct."""

    def __init__(self, weights: PackedWeights):
        self.weights, config = weights, weights.config
        blocks = [
            _Block(
                _norm(block.norm_1), _norm(block.norm_2),
                *(product.struct for product in (block.qkv, block.out, block.up, block.down)),
                pointer(block.head_gains),
            )
            for block in weights.blocks
        ]  # fmt: skip
        rotations = None if weights.rotations is None else torch.view_as_real(weights.rotations)  # shares its memory
        self.struct = _Model(
            (_Block * len(blocks))(*blocks), weights.head.struct, _norm(weights.final_norm),
            pointer(weights.embedding), pointer(weights.positions), pointer(rotations),
            config.n_layer, config.n_embd, config.n_head, config.kv_heads, config.head_dim, config.block_size,
            weights.embedding.stride(0), 0 if rotations is None else rotations.stride(0),
            get_args(Activation).index(weights.blocks[0].activation), config.norm_eps,
        )  # fmt: skip

    def __call__(
        self, ids: Sequence[int], slots: Sequence[int], positions: Sequence[int], cache: Tensor, head: bool
    ) -> Tensor | None:
        """Logits (N, out of the head) of a token in each row, or with `head` False none.

        Their keys and values go to `cache` (L, slots, block, 2 H_kv, D), which a row sees up to its own position.
        Raises IndexError for a token, slot or position that there is not.
        """
        limits = {"tokens": len(self.weights.embedding), "slots": cache.size(1), "positions": cache.size(2)}
        for numbers, (name, limit) in zip((ids, slots, positions), limits.items(), strict=True):
            if min(numbers) < 0 or max(numbers) >= limit:
                raise IndexError(f"{name} {list(numbers)} are not all from 0 to {limit - 1}")
        rows = torch.tensor([ids, slots, positions])
        logits = torch.empty(len(ids), self.struct.head.outputs) if head else None
        library().decode(
            byref(self.struct), len(ids), *map(pointer, rows), pointer(cache), cache.size(1), pointer(logits)
        )
        return logits


def _norm(norm: Norm) -> _Norm:
    return _Norm(pointer(norm.weight), pointer(norm.bias))
