"""The choice of the next token from logits."""

import torch
from torch import Tensor


def sample_tokens(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float | None, generators: list[torch.Generator]
) -> Tensor:
    """One id for each row of logits (B, V), as int64 (B,), row i drawn with generators[i].

    The logits are divided by the temperature, filtered, and sampled; temperature 0 takes the largest.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = filter_logits(logits.double() / temperature, top_k, top_p)
    # Invert the cumulative distribution: one draw a row, where torch.multinomial makes one for every id. Doubles
    # keep 50k small terms apart, and "right" steps over ids of no probability.
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)  # (B, V)
    draws = torch.stack([torch.rand(1, generator=generator) for generator in generators])  # (B, 1) in [0, 1)
    return torch.searchsorted(cumulative, draws * cumulative[:, -1:], right=True)[:, 0]


def filter_logits(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Logits (..., V) with -inf wherever an id may not be chosen; None leaves a filter out.

    top_k keeps the k largest (Fan et al. 2018, https://arxiv.org/abs/1805.04833). top_p keeps, of those, the fewest
    that together hold at least that probability (Holtzman et al. 2020, https://arxiv.org/abs/1904.09751), so always
    one. Ids tied with the last one kept are kept too.
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
