"""`optimized`: Llama style (Touvron et al., arXiv:2302.13971). No biases, no position table.

RMSNorm (arXiv:1910.07467), rotary positions (arXiv:2104.09864), grouped-query attention
(arXiv:2305.13245) and SwiGLU (arXiv:2002.05202). Parameters are named as in LlamaForCausalLM.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from nanogpt.model.base import attention_mask
from nanogpt.model.cache import Cache
from nanogpt.model.config import ModelConfig
from nanogpt.model.loss import head_loss

ROPE_THETA = 10_000.0


def mlp_width(config: ModelConfig) -> int:
    """Inner width of SwiGLU: 8/3 of the model's, down to a multiple of 64, so three matrices weigh what GPT-2's two do."""
    return max(64, 8 * config.n_embd // 3 // 64 * 64)


class RMSNorm(nn.Module):
    """x over its root mean square, times a learned gain; computed in fp32 or better."""

    def __init__(self, width: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def rope_tables(config: ModelConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of every position's rotation, each (block_size, head_dim) fp32."""
    frequencies = ROPE_THETA ** (-torch.arange(0, config.head_dim, 2).float() / config.head_dim)  # (D / 2,)
    angles = torch.outer(torch.arange(config.block_size).float(), frequencies).repeat(1, 2)  # (T, D)
    return angles.cos(), angles.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn queries or keys (B, H, T, D) by their positions; the pairs are (i, i + D / 2), as in Llama of transformers."""
    half = x.size(-1) // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos.to(x.dtype) + turned * sin.to(x.dtype)


class Attention(nn.Module):
    """Causal attention in which several heads share one head of keys and values."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.layer, self.head_dim, self.dropout = layer, config.head_dim, config.dropout
        self.q_proj = nn.Linear(config.n_embd, config.n_head * config.head_dim, bias=False)
        self.k_proj = nn.Linear(config.n_embd, config.n_kv_head * config.head_dim, bias=False)
        self.v_proj = nn.Linear(config.n_embd, config.n_kv_head * config.head_dim, bias=False)
        self.o_proj = nn.Linear(config.n_head * config.head_dim, config.n_embd, bias=False)

    def forward(self, x: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor], cache: Cache | None) -> torch.Tensor:
        B, T, _ = x.shape
        q, k, v = (
            project(x).view(B, T, -1, self.head_dim).transpose(1, 2)  # (B, H, T, D), H heads or groups
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, *rope), rotate(k, *rope)
        past = 0
        if cache is not None:
            past = cache.length
            k, v = cache.update(self.layer, k, v)
        mask = attention_mask(T, past, x.device)
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0, is_causal=past == 0,
            enable_gqa=True,
        )  # fmt: skip
        return self.o_proj(y.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    """SwiGLU: silu(gate) * up, then down."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        width = mlp_width(config)
        self.gate_proj = nn.Linear(config.n_embd, width, bias=False)
        self.up_proj = nn.Linear(config.n_embd, width, bias=False)
        self.down_proj = nn.Linear(width, config.n_embd, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Attention and MLP, each added to what came in and fed its RMSNorm."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.input_layernorm = RMSNorm(config.n_embd)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.n_embd)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor], cache: Cache | None) -> torch.Tensor:
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), rope, cache))
        return x + self.dropout(self.mlp(self.post_attention_layernorm(x)))


class Transformer(nn.Module):
    """Embedding, blocks and the last norm: ids (B, T) to hidden states (B, T, C)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.n_embd)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = RMSNorm(config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        cos, sin = rope_tables(config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, ids: torch.Tensor, cache: Cache | None) -> torch.Tensor:
        past = cache.length if cache is not None else 0
        here = slice(past, past + ids.size(1))
        x = self.dropout(self.embed_tokens(ids))
        for layer in self.layers:
            x = layer(x, (self.cos[here], self.sin[here]), cache)
        if cache is not None:
            cache.length += ids.size(1)
        return self.norm(x)


class Optimized(nn.Module):
    """Llama with an output head, tied to the embedding where the config says so."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.model = Transformer(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self._initialise()
        if config.tie_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def _initialise(self) -> None:
        """Normal with 0.02; what adds to the residual stream less, the deeper the model."""
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                adds = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 * ((2 * self.config.n_layer) ** -0.5 if adds else 1.0))

    def forward(
        self,
        ids: torch.Tensor,
        targets: torch.Tensor | None = None,
        cache: Cache | None = None,
        reduction: Literal["mean", "none"] = "mean",
        last: bool = False,
    ) -> torch.Tensor:
        """Logits (B, T, V) of `ids` (B, T), or (B, 1, V) with `last`; with `targets`, the loss in nats.

        `reduction` is that of `head_loss`. With a cache, `ids` go on from the tokens it holds.
        """
        x = self.model(ids, cache)
        if targets is not None:
            return head_loss(self.lm_head, x, targets, reduction)
        return self.lm_head(x[:, -1:] if last else x)
