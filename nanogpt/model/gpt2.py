"""The base architecture: GPT-2.

Parameters are named as in transformers' GPT2LMHeadModel; its Conv1D weights are transposed nn.Linear weights here.
Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.model.attention import causal_attention
from nanogpt.model.config import HuggingFaceNames, ModelConfig
from nanogpt.model.dropout import Dropout
from nanogpt.model.language_model import LanguageModel


class Attention(nn.Module):
    """Multi-head causal self-attention."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.head_dim, self.dropout = config.head_dim, config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor, starts: Tensor | None = None) -> Tensor:
        """(B, T, C) to (B, T, C); `starts` as in `causal_attention`."""
        q, k, v = self.c_attn(x).unflatten(-1, (3, -1, self.head_dim)).permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        y = causal_attention(q, k, v, self.dropout if self.training else 0.0, starts)  # (B, H, T, D)
        return self.c_proj(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear maps around a GELU: in the tanh form that GPT-2 was trained with, or exact."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        width = config.mlp_hidden or 4 * config.n_embd
        self.c_fc = nn.Linear(config.n_embd, width)
        self.c_proj = nn.Linear(width, config.n_embd)
        self.approximate = "tanh" if config.activation == "gelu_new" else "none"

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        return self.c_proj(F.gelu(self.c_fc(x), approximate=self.approximate))


class Block(nn.Module):
    """Attention and MLP, each normalised before and added back after."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.norm_eps)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.norm_eps)
        self.mlp = MLP(config)
        self.drop = Dropout(config.dropout)

    def forward(self, x: Tensor, starts: Tensor | None = None) -> Tensor:
        """(B, T, C) to (B, T, C); `starts` as in `causal_attention`."""
        x = x + self.drop(self.attn(self.ln_1(x), starts))
        return x + self.drop(self.mlp(self.ln_2(x)))


class GPT2(LanguageModel):
    """GPT-2 with learned positions. `n_kv_head` does not apply: every head has its own keys and values."""

    hf = HuggingFaceNames(
        "GPT-2", "GPT2LMHeadModel", "gpt2", "transformer.wte", "transformer.h",
        transposed=("c_attn.weight", "c_proj.weight", "c_fc.weight"),
    )  # fmt: skip

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.n_embd),
                "wpe": nn.Embedding(config.block_size, config.n_embd),
                "drop": Dropout(config.dropout),
                "h": nn.ModuleList(Block(config) for _ in range(config.n_layer)),
                "ln_f": nn.LayerNorm(config.n_embd, eps=config.norm_eps),
            }
        )
        self.add_head()

    @torch.no_grad()
    def initialise(self) -> None:
        """Draw weights as `LanguageModel` does, but let positions start as sinusoids, which are learned from there.

        Neighbours then resemble each other, so heads that attend to the token before form early
        (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762).
        """
        super().initialise()
        positions = sinusoidal_positions(self.config.block_size, self.config.n_embd)
        self.transformer.wpe.weight.copy_(positions * self.config.initial_std * math.sqrt(2))

    def hidden(self, ids: Tensor) -> Tensor:
        """Hidden states before the output head, (B, T, C)."""
        starts = self.starts(ids)
        positions = torch.arange(ids.size(1), device=ids.device)  # (T,), or within their documents (B, T)
        positions = positions if starts is None else positions - starts
        x = self.transformer.drop(self.transformer.wte(ids) + self.transformer.wpe(positions))  # (B, T, C)
        for block in self.transformer.h:
            x = block(x, starts)
        return self.transformer.ln_f(x)


def sinusoidal_positions(T: int, width: int) -> Tensor:
    """Sines and cosines of positions 0 to T - 1, (T, width) fp32, at wavelengths from 2 pi to 10,000 times that."""
    frequencies = 10_000.0 ** (-torch.arange(0, width, 2) / width)  # (width / 2, rounded up)
    angles = torch.arange(T)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]
