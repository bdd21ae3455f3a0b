import math

import pytest
import torch
from small_models import decoded, every_shape, lively, tiny, tokens

from nanogpt.model.attention import causal_attention
from nanogpt.model.kv_cache import KVCache


@pytest.mark.parametrize("sizes", [(2, 3, 6), (1,) * 11], ids=str)
@every_shape
@torch.no_grad()
def test_a_prompt_in_chunks_equals_one(config, sizes):
    model, ids = lively(config), tokens(config, length=11)
    whole, parts = KVCache(config, 2), KVCache(config, 2)
    logits = model(ids, cache=whole)
    pieces = [model(chunk, cache=parts) for chunk in ids.split(sizes, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(logits, model(ids), atol=1e-4, rtol=0)
    assert whole.length == parts.length == 11
    parts.length = 0  # an emptied cache remembers nothing
    torch.testing.assert_close(model(ids[:, 2:], cache=parts), model(ids[:, 2:]), atol=1e-4, rtol=0)


@every_shape
@torch.no_grad()
def test_a_loss_goes_on_from_a_cache(config):
    model, ids, targets = lively(config), tokens(config), tokens(config, seed=2)
    cache = KVCache(config, 2)
    model(ids[:, :6], cache=cache)
    losses = model(ids[:, 6:], targets[:, 6:], cache=cache, reduction="none")
    torch.testing.assert_close(losses, model(ids, targets, reduction="none")[:, 6:], atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@every_shape
@torch.no_grad()
def test_decoding_under_autocast(config, dtype):
    model, ids = lively(config), tokens(config)
    exact = model(ids)
    with torch.autocast("cpu", torch.bfloat16):
        logits = decoded(model, ids, dtype)
    assert logits.isfinite().all()
    assert (logits - exact).norm() < 0.05 * exact.norm()


def test_more_tokens_than_fit_are_an_error():
    cache = KVCache(tiny("base"), 2)
    cache.length = 16
    with pytest.raises(ValueError, match="17 tokens do not fit a cache of 16"):
        cache.update(0, cache.keys[0, :, :, :1], cache.values[0, :, :, :1])


def test_size_at_the_reference_shape():
    shape = {"n_layer": 5, "n_head": 5, "n_embd": 320, "block_size": 256, "vocab_size": 50304}
    base = KVCache(tiny("base", n_kv_head=1, **shape), batch_size=1)
    grouped = KVCache(tiny("optimized", n_kv_head=1, **shape), batch_size=1)
    assert base.nbytes == 2 * 5 * 256 * 320 * 4  # keys and values, layers, tokens, width, bytes of fp32
    assert grouped.nbytes == 2 * 5 * 256 * 64 * 4
    assert grouped.nbytes <= 0.4 * base.nbytes
    half = KVCache(tiny("optimized", n_kv_head=1, **shape), 3, torch.bfloat16)
    assert half.nbytes == 3 * grouped.nbytes // 2


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)], ids=str)
@pytest.mark.parametrize(("T", "S"), [(1, 9), (4, 9), (9, 9)])
@pytest.mark.parametrize("heads", [4, 2, 1])
@pytest.mark.parametrize("dropout", [0.0, 1e-12])  # so little that nothing is dropped
def test_attention_is_a_weighted_mean_of_what_came_before(heads, T, S, dtype, error, dropout):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, n, length, 8).to(dtype) for n, length in ((4, T), (heads, S), (heads, S)))
    y = causal_attention(q, k, v, dropout)
    for b in range(2):
        for h in range(4):
            keys, values = (x[b, h * heads // 4].double() for x in (k, v))
            for t in range(T):
                seen = S - T + t + 1
                weights = (keys[:seen] @ q[b, h, t].double() / math.sqrt(8)).exp()
                expected = weights @ values[:seen] / weights.sum()
                torch.testing.assert_close(y[b, h, t].double(), expected, atol=error, rtol=0)
