"""A model's weights as decoding needs them: packed, and as few products and other operations as possible."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.inference.products import Product, WeightDtype, pack
from nanogpt.inference.sampling import BLOCK
from nanogpt.model.config import ModelConfig
from nanogpt.model.gpt2 import GPT2
from nanogpt.model.language_model import LanguageModel
from nanogpt.model.llama import Llama, rope_cos_sin

Activation = Literal["swiglu", "gelu", "gelu_tanh"]  # in the order of decode.cpp


@dataclass(frozen=True)
class Norm:
    """LayerNorm, or without a weight RMSNorm over sqrt(C) and its gain, which `_gain` puts into the next weight."""

    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 0.0

    def __call__(self, x: Tensor, wide: Tensor) -> Tensor:
        """Of hidden states x (N, C); for RMSNorm `wide` is x and a column of sqrt(C eps).

        Two operations of torch, where its own RMSNorm is made of eight, each longer than its arithmetic.
        """
        if self.weight is None:
            return x / torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        return torch.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class Block:
    """One block: its normalisations, its packed products, and what is between them."""

    norm_1: Norm
    qkv: Product
    head_gains: Tensor | None  # (heads of queries and keys, D), of their normalisation
    out: Product
    norm_2: Norm
    up: Product
    activation: Activation
    down: Product


@dataclass(frozen=True)
class PackedWeights:
    """All weights of a model, constant."""

    config: ModelConfig
    embedding: Tensor  # (V, C), or with RMSNorm (V, C + 1), see `Norm`
    positions: Tensor | None  # (T, C)
    rotations: Tensor | None  # complex (T, H + 2 H_kv, D / 2)
    blocks: list[Block]
    final_norm: Norm
    head: Product


def pack_model(model: LanguageModel, n_tokens: int, dtype: WeightDtype) -> PackedWeights:
    """Pack a model's weights in `dtype`, its head for the first `n_tokens` tokens and as many as make whole blocks."""
    config, embedding = model.config, model.get_input_embeddings().weight.detach().float()
    padding = -n_tokens % BLOCK
    head = F.pad(model.lm_head.weight[:n_tokens], (0, 0, 0, padding))  # not what pads the embedding
    bias = F.pad(head.new_zeros(n_tokens), (0, padding), value=-torch.inf) if padding else None
    if isinstance(model, GPT2):
        blocks, final_norm = list(_gpt2_blocks(model, dtype)), _layer_norm(model.transformer.ln_f)
        positions = model.transformer.wpe.weight.detach().float()
        return PackedWeights(config, embedding, positions, None, blocks, final_norm, pack(head, bias, dtype))
    embedding = F.pad(embedding, (0, 1), value=(config.n_embd * config.norm_eps) ** 0.5)
    rotations, head = _rotations(config, head.device), head * _gain(model.model.norm)
    return PackedWeights(
        config, embedding, None, rotations, list(_llama_blocks(model, dtype)), Norm(), pack(head, bias, dtype)
    )


def _gpt2_blocks(model: GPT2, dtype: WeightDtype) -> Iterator[Block]:
    def packed(linear: nn.Linear) -> Product:
        return pack(linear.weight, linear.bias, dtype)

    for block in model.transformer.h:
        yield Block(
            _layer_norm(block.ln_1), packed(block.attn.c_attn), None, packed(block.attn.c_proj),
            _layer_norm(block.ln_2), packed(block.mlp.c_fc),
            "gelu" if block.mlp.approximate == "none" else "gelu_tanh", packed(block.mlp.c_proj),
        )  # fmt: skip


def _llama_blocks(model: Llama, dtype: WeightDtype) -> Iterator[Block]:
    """Queries, keys and values are one product here, and so are gate and up; both halves of a pair are neighbours."""
    D = model.config.head_dim
    pairs = torch.arange(D).view(2, -1).t().flatten()  # 0, D / 2, 1, D / 2 + 1, ...

    for block in model.model.layers:
        attention, mlp = block.self_attn, block.mlp
        to_turn = attention.q_proj.weight, attention.k_proj.weight
        turned = [weight.unflatten(0, (-1, D))[:, pairs].flatten(0, 1) for weight in to_turn]
        qkv = torch.cat([*turned, attention.v_proj.weight]) * _gain(block.input_layernorm)
        gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]) * _gain(block.post_attention_layernorm)
        gains = None
        if model.config.qk_norm:
            heads = model.config.n_head, model.config.n_kv_head
            norms = (norm.weight.detach().float() for norm in (attention.q_norm, attention.k_norm))
            gains = torch.cat([gain[pairs].expand(count, D) for gain, count in zip(norms, heads, strict=True)])
        yield Block(
            Norm(), pack(qkv, None, dtype), gains, pack(attention.o_proj.weight, None, dtype),
            Norm(), pack(gate_up, None, dtype), "swiglu", pack(mlp.down_proj.weight, None, dtype),
        )  # fmt: skip


def _rotations(config: ModelConfig, device: torch.device) -> Tensor:
    """Complex numbers that turn pairs by their positions' angles, (block, H + 2 H_kv, D / 2), and values by none."""
    cos, sin = rope_cos_sin(config.block_size, config.head_dim, device, config.rope_theta)
    turned = torch.complex(cos, sin)[:, None].expand(-1, config.n_head + config.kv_heads, -1)
    return torch.cat([turned, torch.ones_like(turned[:, : config.kv_heads])], dim=1)


def _layer_norm(module: nn.LayerNorm) -> Norm:
    return Norm(module.weight.detach().float(), module.bias.detach().float(), module.eps)


def _gain(norm: nn.RMSNorm) -> Tensor:
    """What `Norm` leaves to the columns of the next weight."""
    return norm.weight.detach() * norm.weight.numel() ** 0.5
