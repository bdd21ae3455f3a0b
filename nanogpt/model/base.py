"""`base`: GPT-2 (Radford et al. 2019). Multi-head attention, LayerNorm, GELU, learned positions.

Parameters are named as in GPT2LMHeadModel of transformers; its projections are stored transposed
there (Conv1D), which `checkpoint` settles.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from nanogpt.model.cache import Cache
from nanogpt.model.config import ModelConfig
from nanogpt.model.loss import head_loss


class Attention(nn.Module):
    """Causal multi-head attention; queries, keys and values in one projection."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.layer, self.n_head, self.dropout = layer, config.n_head, config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor, cache: Cache | None) -> torch.Tensor:
        B, T, C = x.shape
        q, k, v = self.c_attn(x).view(B, T, 3 * self.n_head, -1).transpose(1, 2).chunk(3, dim=1)  # each (B, H, T, D)
        past = 0
        if cache is not None:
            past = cache.length
            k, v = cache.update(self.layer, k, v)
        mask = attention_mask(T, past, x.device)
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0, is_causal=past == 0
        )
        return self.resid_dropout(self.c_proj(y.transpose(1, 2).reshape(B, T, C)))


class MLP(nn.Module):
    """Two layers with GELU (tanh form) between them, four times as wide inside."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x), approximate="tanh")))


class Block(nn.Module):
    """Attention and MLP, each added to what came in and fed its LayerNorm."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x: torch.Tensor, cache: Cache | None) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x), cache)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """Embeddings, blocks and the last norm: ids (B, T) to hidden states (B, T, C)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)

    def forward(self, ids: torch.Tensor, cache: Cache | None) -> torch.Tensor:
        past = cache.length if cache is not None else 0
        positions = torch.arange(past, past + ids.size(1), device=ids.device)
        x = self.drop(self.wte(ids) + self.wpe(positions))
        for block in self.h:
            x = block(x, cache)
        if cache is not None:
            cache.length += ids.size(1)
        return self.ln_f(x)


class Base(nn.Module):
    """GPT-2 with an output head, tied to the embedding where the config says so."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.transformer = Transformer(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self._initialise()
        if config.tie_embeddings:
            self.lm_head.weight = self.transformer.wte.weight

    def _initialise(self) -> None:
        """GPT-2's: normal with 0.02; what adds to the residual stream less, the deeper the model."""
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                deep = (2 * self.config.n_layer) ** -0.5 if name.endswith("c_proj.weight") else 1.0
                nn.init.normal_(parameter, std=0.02 * deep)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

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
        x = self.transformer(ids, cache)
        if targets is not None:
            return head_loss(self.lm_head, x, targets, reduction)
        return self.lm_head(x[:, -1:] if last else x)


def attention_mask(new: int, past: int, device: torch.device) -> torch.Tensor | None:
    """(new, past + new) bool, true where a new token may look; None where no mask is needed."""
    if past == 0 or new == 1:  # causal from the start, or one token that may look at all there are
        return None
    return torch.ones(new, past + new, dtype=torch.bool, device=device).tril(past)
