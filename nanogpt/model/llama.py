"""The optimized architecture: Llama, or with norms of queries and keys Qwen3; it learns more per token than GPT-2.

Rotary positions (Su et al. 2021, https://arxiv.org/abs/2104.09864), RMSNorm (Zhang & Sennrich 2019,
https://arxiv.org/abs/1910.07467), SwiGLU (Shazeer 2020, https://arxiv.org/abs/2002.05202), grouped-query attention
(Ainslie et al. 2023, https://arxiv.org/abs/2305.13245) and no biases, put together as in Llama
(Touvron et al. 2023, https://arxiv.org/abs/2302.13971). `qk_norm` adds RMSNorm on each head's queries and keys
(Henry et al. 2020, https://arxiv.org/abs/2010.04245, there without a gain), as in Qwen3 (https://arxiv.org/abs/2505.09388).
Parameters are named as in transformers' LlamaForCausalLM and Qwen3ForCausalLM.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.model.attention import causal_attention
from nanogpt.model.config import HuggingFaceNames, ModelConfig
from nanogpt.model.dropout import Dropout
from nanogpt.model.language_model import LanguageModel


def mlp_width(config: ModelConfig) -> int:
    """Hidden width of the SwiGLU MLP: the config's, or 8/3 of n_embd, down to a multiple of 64 (at least 64).

    Three matrices of that width hold what GPT-2's two of width 4 * n_embd do, or slightly less.
    """
    return config.mlp_hidden or max(64, 8 * config.n_embd // 3 // 64 * 64)


def rope_cos_sin(T: int, head_dim: int, device: torch.device, theta: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Cosine and sine (T, head_dim / 2), fp32, of the rotary angles of positions 0 .. T - 1.

    Computed in each pass: a stored table would lose its precision when the model is cast to half.
    """
    positions = torch.arange(T, device=device, dtype=torch.float32)
    frequencies = theta ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    angles = positions[:, None] * frequencies
    return angles.cos(), angles.sin()


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + head_dim / 2) of x (B, H, T, head_dim) by their positions' angles."""
    a, b = x.chunk(2, dim=-1)  # (B, H, T, head_dim / 2)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).type_as(x)


class HeadNorm(nn.RMSNorm):
    """RMSNorm of each head, computed in fp32 at least: its input may be in half precision where its weights are not."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., head_dim) to the same, of the same dtype."""
        wide = torch.promote_types(x.dtype, torch.float32)
        return F.rms_norm(x.to(wide), self.normalized_shape, self.weight.to(wide), self.eps).type_as(x)


class Attention(nn.Module):
    """Causal self-attention in which groups of query heads share keys and values."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.head_dim, self.dropout = config.head_dim, config.dropout
        self.q_proj = nn.Linear(config.n_embd, config.n_head * config.head_dim, bias=False)
        self.k_proj = nn.Linear(config.n_embd, config.n_kv_head * config.head_dim, bias=False)
        self.v_proj = nn.Linear(config.n_embd, config.n_kv_head * config.head_dim, bias=False)
        self.o_proj = nn.Linear(config.n_head * config.head_dim, config.n_embd, bias=False)
        norm = partial(HeadNorm, config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity
        self.q_norm, self.k_norm = norm(), norm()

    def forward(self, x: Tensor, cos_sin: tuple[Tensor, Tensor], starts: Tensor | None = None) -> Tensor:
        """(B, T, C) to (B, T, C); `cos_sin` is from `rope_cos_sin`, `starts` as in `causal_attention`."""
        # q: (B, H, T, D); k and v: (B, H_kv, T, D)
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = apply_rope(self.q_norm(q), *cos_sin), apply_rope(self.k_norm(k), *cos_sin)
        y = causal_attention(q, k, v, self.dropout if self.training else 0.0, starts)  # (B, H, T, D)
        return self.o_proj(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """SwiGLU: one linear map gates another."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.n_embd, mlp_width(config), bias=False)
        self.up_proj = nn.Linear(config.n_embd, mlp_width(config), bias=False)
        self.down_proj = nn.Linear(mlp_width(config), config.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Attention and MLP, each normalised before and added back after."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        # torch's RMSNorm works in fp32 on half-precision input.
        self.input_layernorm = nn.RMSNorm(config.n_embd, eps=config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.n_embd, eps=config.norm_eps)
        self.mlp = MLP(config)
        self.drop = Dropout(config.dropout)

    def forward(self, x: Tensor, cos_sin: tuple[Tensor, Tensor], starts: Tensor | None = None) -> Tensor:
        """(B, T, C) to (B, T, C); `starts` as in `causal_attention`."""
        x = x + self.drop(self.self_attn(self.input_layernorm(x), cos_sin, starts))
        return x + self.drop(self.mlp(self.post_attention_layernorm(x)))


class Llama(LanguageModel):
    """Llama with `n_kv_head` key/value heads: n_head of them is multi-head, 1 is multi-query attention."""

    hf = HuggingFaceNames("Llama", "LlamaForCausalLM", "llama", "model.embed_tokens", "model.layers")

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.model = nn.ModuleDict(
            {
                "embed_tokens": nn.Embedding(config.vocab_size, config.n_embd),
                "drop": Dropout(config.dropout),
                "layers": nn.ModuleList(Block(config) for _ in range(config.n_layer)),
                "norm": nn.RMSNorm(config.n_embd, eps=config.norm_eps),
            }
        )
        self.add_head()

    def hidden(self, ids: Tensor) -> Tensor:
        """Hidden states before the output head, (B, T, C)."""
        cos_sin = rope_cos_sin(ids.size(1), self.config.head_dim, ids.device, self.config.rope_theta)
        starts = self.starts(ids)
        x = self.model.drop(self.model.embed_tokens(ids))  # (B, T, C)
        for block in self.model.layers:
            x = block(x, cos_sin, starts)
        return self.model.norm(x)


class Qwen3(Llama):
    """Llama with RMSNorm on queries and keys, which keeps their products in bounds at high learning rates."""

    hf = HuggingFaceNames("Qwen3", "Qwen3ForCausalLM", "qwen3", "model.embed_tokens", "model.layers")
