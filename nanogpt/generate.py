"""Writes text token by token, with a key/value cache."""

from collections.abc import Iterator

import torch
from torch import nn

from nanogpt.model.cache import Cache


def generate(
    model: nn.Module,
    prompt: list[int],
    *,
    num_samples: int,
    max_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    n_tokens: int,
    eot: int,
) -> list[list[int]]:
    """`num_samples` continuations of a prompt, each without the prompt and its end token.

    Same seed, same text; row i does not depend on how many rows there are. Ids from `n_tokens` up
    have no text and are never drawn. Temperature 0 takes the likeliest token.
    """
    rows: list[list[int]] = [[] for _ in range(num_samples)]
    ended = [False] * num_samples
    generators = [torch.Generator().manual_seed((seed << 20) + row) for row in range(num_samples)]
    was_training = model.training
    model.eval()
    try:
        for logits, tokens in _decode(model, [eot, *prompt], num_samples, max_tokens):
            logits = filter_logits(logits[:, :n_tokens], temperature, top_k, top_p)
            drawn = [torch.multinomial(p, 1, generator=g) for p, g in zip(logits.softmax(-1), generators, strict=True)]
            tokens.copy_(torch.stack(drawn))
            for row, token in enumerate(tokens[:, 0].tolist()):
                ended[row] |= token == eot
                if not ended[row]:
                    rows[row].append(token)
            if all(ended):
                break
    finally:
        model.train(was_training)
    return rows


def filter_logits(logits: torch.Tensor, temperature: float, top_k: int | None, top_p: float | None) -> torch.Tensor:
    """Logits (B, V) whose softmax is what to sample from: others than the chosen tokens are -inf.

    Temperature divides first, 0 keeps the likeliest alone; then top-k; then top-p (nucleus sampling,
    arXiv:1904.09751), the fewest likeliest tokens whose probabilities sum to at least `top_p`.
    """
    if temperature == 0:
        best = logits.argmax(-1, keepdim=True)
        return torch.full_like(logits, -torch.inf).scatter(-1, best, 0.0)
    logits = logits / temperature
    if top_k is not None and top_k < logits.size(-1):
        kept = logits.topk(top_k)
        logits = torch.full_like(logits, -torch.inf).scatter(-1, kept.indices, kept.values)
    if top_p is not None and top_p < 1:
        ordered, order = logits.sort(descending=True, stable=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)  # probability of all likelier tokens
        logits = torch.full_like(logits, -torch.inf).scatter(
            -1, order, ordered.masked_fill(before >= top_p, -torch.inf)
        )
    return logits


def _decode(
    model: nn.Module, context: list[int], rows: int, max_tokens: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the next token's logits (rows, V) in fp32 and a tensor (rows, 1) for the caller to fill with the choice.

    When the block is full, the last half of it is read again from position 0 and decoding goes on.
    """
    config, device = model.config, next(model.parameters()).device
    text = torch.tensor([context] * rows, device=device)
    cache, new = None, text
    for _ in range(max_tokens):
        with torch.inference_mode():
            if cache is None or cache.length + new.size(1) > config.block_size:
                keep = config.block_size if cache is None else max(1, config.block_size // 2)
                cache, new = Cache(config, rows, device=device), text[:, -keep:]
            logits = model(new, cache=cache, last=True)[:, -1].float().cpu()
        new = torch.empty(rows, 1, dtype=torch.long)
        yield logits, new
        new = new.to(device)
        text = torch.cat((text, new), dim=1)
