"""Text from a model, token by token: decoding with a key/value cache, and sampling."""

import random
from collections.abc import Iterator
from itertools import takewhile

import torch
from torch import Tensor, nn

from nanogpt.model.kv_cache import KVCache
from nanogpt.runtime.errors import UserError


def generate(
    model: nn.Module,
    prompt_ids: list[int],
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
    """Continuations of one prompt, decoded as one batch; the same arguments give the same ids.

    Each holds up to max_tokens ids below n_tokens and ends before its first `eot`; see `decode` for the arguments.
    """
    steps = list(
        decode(
            model, prompt_ids, num_samples=num_samples, max_tokens=max_tokens, temperature=temperature, top_k=top_k,
            top_p=top_p, seed=seed, n_tokens=n_tokens, eot=eot,
        )
    )  # fmt: skip
    return [list(takewhile(lambda token: token != eot, (step[row] for step in steps))) for row in range(num_samples)]


@torch.inference_mode()
def decode(
    model: nn.Module,
    prompt_ids: list[int],
    *,
    num_samples: int,
    max_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    n_tokens: int,
    eot: int,
) -> Iterator[list[int]]:
    """The next id of every row, max_tokens times or until every row has had its `eot`.

    A row that has ended goes on beside the others; what follows its `eot` means nothing. `eot` is put before the
    prompt, as documents begin after one. A context longer than the model's block is cut to its last
    `block_size // 2` tokens and read anew, so the cost of a token stays bounded in texts of any length.
    Row i draws from a generator of its own, so it does not depend on how many rows there are. The model is in eval
    mode until the iterator ends or is closed, then in the mode it was in.

    n_tokens: ids from there on are padding of the embedding and never chosen.
    temperature: 0 chooses the likeliest id; top_k and top_p: see `filter_logits`.
    """
    config, was_training = model.config, model.training
    weight = next(model.parameters())
    autocast = torch.is_autocast_enabled(weight.device.type)
    dtype = torch.get_autocast_dtype(weight.device.type) if autocast else weight.dtype
    cache = KVCache(config, num_samples, dtype, weight.device)
    generators = [torch.Generator().manual_seed(_row_seed(seed, row)) for row in range(num_samples)]
    context = torch.tensor([[eot, *prompt_ids]] * num_samples, device=weight.device)  # (B, T)
    unread = context
    ended = torch.zeros(num_samples, dtype=torch.bool)
    model.eval()
    try:
        for _ in range(max_tokens):
            if context.size(1) > config.block_size:
                context = unread = context[:, -max(1, config.block_size // 2) :]
                cache.length = 0
            logits = model(unread, cache=cache, last=True)[:, 0, :n_tokens].cpu()  # (B, n_tokens)
            if not logits.isfinite().all():
                raise UserError("the model's output is not finite: its weights are damaged, or its training diverged")
            chosen = choose(logits, temperature, top_k, top_p, generators)  # (B,)
            unread = chosen[:, None].to(weight.device)
            context = torch.cat([context, unread], dim=1)
            yield chosen.tolist()
            ended |= chosen == eot
            if ended.all():
                return
    finally:
        model.train(was_training)


def choose(
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


def _row_seed(seed: int, row: int) -> int:
    """A seed for each row that no other pair of seed and row is likely to share."""
    return random.Random(f"{seed} {row}").getrandbits(63)
