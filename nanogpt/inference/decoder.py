"""A model's forward pass for decoding: packed weights, and a cache of keys and values with a slot for each text."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.inference.products import Product, WeightDtype, pack
from nanogpt.inference.sampling import BLOCK
from nanogpt.model.attention import causal_attention
from nanogpt.model.config import ModelConfig
from nanogpt.model.gpt2 import GPT2
from nanogpt.model.language_model import LanguageModel
from nanogpt.model.llama import Llama, rope_cos_sin

Norm = Callable[[Tensor, Tensor], Tensor]  # of hidden states (N, C), and for RMSNorm (N, C + 1), see `_rms_norm`
Attend = Callable[[int, Tensor], Tensor]  # (layer, queries (N, H, D)) to (N, H, D)


@dataclass(frozen=True)
class Block:
    """One block: its normalisations, its packed products, and what is between them."""

    norm_1: Norm
    qkv: Product
    head_gains: Tensor | None  # (heads of queries and keys, D), of their normalisation
    out: Product
    norm_2: Norm
    up: Product
    activation: Callable[[Tensor], Tensor]
    down: Product


class Decoder:
    """A model with constant weights in `dtype`, and the keys and values of the texts in its slots, in fp32.

    `read` and `step` give the same logits as a full pass of the model, to rounding. The model may not have an adapter
    on it: `nanogpt.lora.merge.open_finetuned` merges it.
    """

    def __init__(self, model: LanguageModel, n_tokens: int, dtype: WeightDtype = "float32"):
        self.config, self.n_tokens = model.config, n_tokens
        self.embedding = model.get_input_embeddings().weight.detach()
        head = F.pad(model.lm_head.weight[:n_tokens], (0, 0, 0, -n_tokens % BLOCK))  # not what pads the embedding
        self.device = head.device
        self.positions = self.rotations = None
        if isinstance(model, GPT2):
            self.positions = model.transformer.wpe.weight.detach()
            self.blocks, self.final_norm = list(_gpt2_blocks(model, dtype)), _layer_norm(model.transformer.ln_f)
        else:
            self.rotations = _rotations(self.config, self.device)
            self.embedding = F.pad(self.embedding, (0, 1), value=(self.config.n_embd * self.config.norm_eps) ** 0.5)
            self.blocks, self.final_norm = list(_llama_blocks(model, dtype)), _rms_norm
            head = head * _gain(model.model.norm)
        self.head = pack(head, None, dtype)
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
    def read(self, ids: Sequence[int], slot: int, start: int) -> None:
        """Store keys and values of `ids`, at positions from `start` on, after what the slot holds before them."""
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
        logits = self.head(self._hidden(ids, at, slots, attend))
        logits[:, self.n_tokens :] = -torch.inf
        return logits

    def _hidden(self, ids: Sequence[int], positions: Tensor, slots: Tensor, attend: Attend) -> Tensor:
        """Hidden states before the head, (N, C), of tokens whose keys and values go to the rows `slots` of a layer."""
        N, H, D = len(ids), self.config.n_head, self.config.head_dim
        x = self.embedding[torch.tensor(ids, device=self.device)]  # (N, C), with RMSNorm (N, C + 1)
        if self.positions is not None:
            x += self.positions[positions]
        C = self.config.n_embd
        residual = x[:, :C]
        rotations = None if self.rotations is None else self.rotations[positions]
        for layer, block in enumerate(self.blocks):
            qkv = block.qkv(block.norm_1(residual, x)).view(N, -1, D)  # (N, H + 2 H_kv, D)
            if block.head_gains is not None:
                turned = qkv[:, : len(block.head_gains)]
                turned.copy_(F.rms_norm(turned, (D,), None, self.config.norm_eps) * block.head_gains)
            if rotations is not None:
                torch.view_as_complex(qkv.view(N, -1, D // 2, 2)).mul_(rotations)
            self.rows[layer].index_copy_(0, slots, qkv[:, H:])
            residual += block.out(attend(layer, qkv[:, :H]).reshape(N, C))
            residual += block.down(block.activation(block.up(block.norm_2(residual, x))))
        return self.final_norm(residual, x)


def _gpt2_blocks(model: GPT2, dtype: WeightDtype) -> Iterator[Block]:
    def packed(linear: nn.Linear) -> Product:
        return pack(linear.weight, linear.bias, dtype)

    for block in model.transformer.h:
        approximate = block.mlp.approximate
        yield Block(
            _layer_norm(block.ln_1), packed(block.attn.c_attn), None, packed(block.attn.c_proj),
            _layer_norm(block.ln_2), packed(block.mlp.c_fc),
            lambda x, tanh=approximate: F.gelu(x, approximate=tanh), packed(block.mlp.c_proj),
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
            norms = attention.q_norm.weight, attention.k_norm.weight
            gains = torch.cat([gain[pairs].expand(count, D) for gain, count in zip(norms, heads, strict=True)]).detach()
        yield Block(
            _rms_norm, pack(qkv, None, dtype), gains, pack(attention.o_proj.weight, None, dtype),
            _rms_norm, pack(gate_up, None, dtype), _swiglu, pack(mlp.down_proj.weight, None, dtype),
        )  # fmt: skip


def _swiglu(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


def cache_mib(config: ModelConfig) -> float:
    """MiB of keys and values in fp32 that one text takes at the model's block size."""
    return 2 * config.n_layer * config.block_size * config.kv_heads * config.head_dim * 4 / 2**20


def _rotations(config: ModelConfig, device: torch.device) -> Tensor:
    """Complex numbers that turn pairs by their positions' angles, (block, H + 2 H_kv, D / 2), and values by none."""
    cos, sin = rope_cos_sin(config.block_size, config.head_dim, device, config.rope_theta)
    turned = torch.complex(cos, sin)[:, None].expand(-1, config.n_head + config.kv_heads, -1)
    return torch.cat([turned, torch.ones_like(turned[:, : config.kv_heads])], dim=1)


def _layer_norm(module: nn.LayerNorm) -> Norm:
    weight, bias = module.weight.detach(), module.bias.detach()
    return lambda x, _: torch.layer_norm(x, module.normalized_shape, weight, bias, module.eps)


def _rms_norm(x: Tensor, wide: Tensor) -> Tensor:
    """RMSNorm of x (N, C) over sqrt(C) and its gain (see `_gain`); `wide` is x and a column of sqrt(C eps).

    Two operations of torch, where its own RMSNorm is made of eight, each longer than its arithmetic.
    """
    return x / torch.linalg.vector_norm(wide, dim=-1, keepdim=True)


def _gain(norm: nn.RMSNorm) -> Tensor:
    """What `_rms_norm` leaves to the columns of the next weight."""
    return norm.weight.detach() * norm.weight.numel() ** 0.5
