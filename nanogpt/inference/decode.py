"""Generates text from a model, token by token, with a key/value cache."""

import random
from collections.abc import Iterator

import torch
from torch import nn

from nanogpt.inference.sampling import sample_tokens
from nanogpt.inference.settings import Sampling
from nanogpt.model.kv_cache import KVCache
from nanogpt.runtime.errors import UserError


@torch.inference_mode()
def decode(
    model: nn.Module, prompt_ids: list[int], sampling: Sampling, seed: int, *, n_tokens: int, eot: int
) -> Iterator[list[int]]:
    """Yield the next id of every row, max_tokens times or until every row has had its `eot`.

    Rows that have ended are decoded further beside the others: ignore what follows an `eot`. `eot` is put before the
    prompt, because documents begin after one. A context longer than the model's block is cut to its last
    `block_size // 2` tokens and read again, so that the cost of a token stays bounded in texts of any length.
    Row i has its own random generator, so it does not depend on the number of rows. Ids from `n_tokens` on are padding
    of the embedding and never chosen. The model is in eval mode until the iterator ends or is closed, then in the mode
    it was in. Raises UserError if an output is not finite.
    """
    config, was_training = model.config, model.training
    weight = next(model.parameters())
    cache = KVCache(config, sampling.num_samples, weight.dtype, weight.device)
    # Hash seed and row, so that no two pairs are likely to share a generator.
    seeds = [random.Random(f"{seed} {row}").getrandbits(63) for row in range(sampling.num_samples)]
    generators = [torch.Generator().manual_seed(number) for number in seeds]
    context = torch.tensor([[eot, *prompt_ids]] * sampling.num_samples, device=weight.device)  # (B, T)
    unread = context
    ended = torch.zeros(sampling.num_samples, dtype=torch.bool)
    model.eval()
    try:
        for _ in range(sampling.max_tokens):
            if context.size(1) > config.block_size:
                context = unread = context[:, -max(1, config.block_size // 2) :]
                cache.length = 0
            logits = model(unread, cache=cache, last=True)[:, 0, :n_tokens].cpu()  # (B, n_tokens)
            if not logits.isfinite().all():
                raise UserError("the model's output is not finite: its weights are damaged, or its training diverged")
            chosen = sample_tokens(logits, sampling, generators)  # (B,)
            unread = chosen[:, None].to(weight.device)
            context = torch.cat([context, unread], dim=1)
            yield chosen.tolist()
            ended |= chosen == eot
            if ended.all():
                return
    finally:
        model.train(was_training)
