"""Training as this project does it learns what the plain fp32 loop learns."""

import copy

import numpy as np
import pytest
import torch
from reference_loop import reference_losses

from nanogpt.data.tokens.batches import Windows
from nanogpt.data.tokens.bins import Bin, Counts
from nanogpt.model.build import build_model
from nanogpt.model.config import ModelConfig
from nanogpt.training.loop import train


def text() -> Bin:
    """30,000 tokens in which each follows from the two before, with noise: there is something to learn for long."""
    random = np.random.default_rng(0)
    rule = random.integers(200, size=(200, 200))
    tokens = [1, 2]
    for noisy in random.random(30_000) < 0.2:
        tokens.append(int(random.integers(200) if noisy else rule[tokens[-2] % 10, tokens[-1]]))
    return Bin("test", "train", np.array(tokens, np.uint16), 255, Counts(1, len(tokens), len(tokens), None))


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "dtype"), [("base", "float32"), ("optimized", "bfloat16")])
def test_500_steps_go_the_same_way(arch, dtype, training):
    config = ModelConfig(
        arch=arch, n_layer=2, n_head=4, n_kv_head=2, n_embd=64, block_size=32, dropout=0.0, tie_embeddings=True,
        qk_norm=False, vocab_size=256,
    )  # fmt: skip
    torch.manual_seed(0)
    plain = build_model(config)
    fast = copy.deepcopy(plain)
    windows = Windows(text(), 32, 1)
    settings = training(max_steps=500, batch_size=8, warmup_steps=25, log_every=10, eval_every=500, dtype=dtype)
    expected = np.array(reference_losses(plain, windows, settings)).reshape(50, 10).mean(1)
    ours = train(fast, windows, windows, settings, 1).train_losses
    assert expected[-1] < 0.8 * expected[0]
    np.testing.assert_allclose(ours, expected, rtol=0.005)
