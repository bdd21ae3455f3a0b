"""Chooses the next token from logits."""

import torch
from torch import Tensor

from nanogpt.inference.settings import Sampling


def sample_tokens(logits: Tensor, sampling: Sampling, generators: list[torch.Generator]) -> Tensor:
    """Choose one id for each row of logits (B, V), as int64 (B,); row i is drawn with generators[i].

    The logits are divided by the temperature, filtered, and sampled; temperature 0 takes the largest.
    """
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    logits = filter_logits(logits.double() / sampling.temperature, sampling.top_k, sampling.top_p)
    # Invert the cumulative distribution: one draw a row, where torch.multinomial makes one for every id. Doubles
    # keep 50k small terms apart, and "right" steps over ids of no probability.
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)  # (B, V)
    draws = torch.stack([torch.rand(1, generator=generator) for generator in generators])  # (B, 1) in [0, 1)
    return torch.searchsorted(cumulative, draws * cumulative[:, -1:], right=True)[:, 0]


def filter_logits(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Set the logits (..., V) of ids that may not be chosen to -inf; None leaves a filter out.

    top_k keeps the k largest (Fan et al. 2018, https://arxiv.org/abs/1805.04833). top_p keeps, of those, the fewest
    that together hold at least that probability (Holtzman et al. 2020, https://arxiv.org/abs/1904.09751), so always
    one. Ids with the same logit as the last one kept are kept too.
    """
    if top_k is None and top_p is None:
        return logits
    V = logits.size(-1)
    ranked = logits.topk(min(top_k or V, V)).values  # (..., k), descending
    if top_p is not None:
        probabilities = ranked.softmax(dim=-1)
        ahead = probabilities.cumsum(dim=-1) - probabilities
        ranked = ranked.masked_fill(ahead >= top_p, torch.inf)
    return logits.masked_fill(logits < ranked.amin(dim=-1, keepdim=True), -torch.inf)
