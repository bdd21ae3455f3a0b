"""Of batches with targets that are not learned the mean is that of all learned ones, however they are divided."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from killed import DATA

from nanogpt.data.tokens.batches import Windows
from nanogpt.model.loss import IGNORED
from nanogpt.model.score import validate
from nanogpt.training.optimizer import build_adamw
from nanogpt.training.step import update


def masked_batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Three of two rows with 32, 3 and no learned targets."""
    batches = [Windows(DATA, 16, 1).batch(i, 2) for i in range(3)]
    batches[1][1][:, 3:] = IGNORED
    batches[1][1][1] = IGNORED
    batches[2][1][:] = IGNORED
    return batches


def test_accumulated_batches_are_one(tiny):
    together = [tuple(torch.cat(parts) for parts in zip(*masked_batches(), strict=True))]
    found = []
    for batches in (masked_batches(), together):
        model = tiny().double()
        optimizer = build_adamw(model.parameters(), 0.0, (0.9, 0.99), 0.0)
        loss = update(model, optimizer, batches, 1e9, torch.device("cpu"), torch.float32)
        found.append((loss, [state["exp_avg"] for state in optimizer.state.values()]))  # 1 - 0.9 times the gradient
    (loss, grads), (expected, expected_grads) = found
    assert loss == pytest.approx(expected, rel=1e-12)
    for grad, other in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, other, rtol=1e-9, atol=1e-12)


def test_validation_counts_every_learned_target_once(tiny):
    tokens = DATA.tokens.copy()
    tokens[::20] = tokens[-1] = 63  # ends of documents
    prompts = np.arange((tokens == 63).sum() - 1) % 4 * 3
    windows = Windows(replace(DATA, tokens=tokens, eot=63, prompts=np.minimum(prompts, 9).astype(np.uint32)), 16, 1)
    model = tiny().eval()
    ids, targets = windows.batch(0, 6)
    with torch.no_grad():
        expected = model(ids, targets).item()
    assert len({int((rows != IGNORED).sum()) for rows in targets.split(1)}) > 1
    assert validate(model, windows, 6, 1) == pytest.approx(expected, rel=1e-6)
