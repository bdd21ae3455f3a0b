"""Steps without a finite loss and gradient."""

import itertools
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from killed import DATA, killed_at

from nanogpt.checkpoint.folder import config_and_tokenizer, load_checkpoint
from nanogpt.data.tokens.batches import Windows
from nanogpt.runtime.errors import UserError
from nanogpt.training.loop import train
from nanogpt.training.optimizer import build_adamw
from nanogpt.training.resume import resumable_run
from nanogpt.training.step import update

pytestmark = pytest.mark.usefixtures("inside")


def poison(model, is_bad: Callable[[int], bool]) -> None:
    """Let a gradient be NaN in the n-th backward pass where `is_bad(n)`."""
    calls = itertools.count(1)
    model.transformer.wte.weight.register_hook(lambda grad: grad * (float("nan") if is_bad(next(calls)) else 1))


def test_steps_that_are_not_finite_are_skipped(tiny, training, capsys):
    model = tiny()
    poison(model, lambda n: n in (2, 5, 6))
    windows = Windows(DATA, 16, 1)
    record = train(model, windows, windows, training(max_steps=8, log_every=1), 1)
    assert (record.step, record.skipped, record.skipped_in_row) == (8, 3, 0)
    assert [bool(np.isnan(loss)) for _, loss, _ in record.train_rows] == [i in (1, 4, 5) for i in range(8)]
    assert all(p.isfinite().all() for p in model.parameters())
    assert capsys.readouterr().err.count("the loss or its gradient is not finite; skipped") == 3


def test_a_skipped_step_changes_nothing(tiny, training):
    """Not the weights, and not what AdamW remembers."""
    model = tiny()
    optimizer = build_adamw(model.parameters(), 0.1, (0.9, 0.95), 0.1)
    batch = Windows(DATA, 16, 1).batch(0, 4)
    cpu = torch.device("cpu")
    update(model, optimizer, [batch], 1.0, cpu, torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    remembered = [value["exp_avg"].clone() for value in optimizer.state.values()]
    hook = model.lm_head.weight.register_hook(lambda gradient: gradient * float("inf"))
    assert np.isnan(update(model, optimizer, [batch], 1.0, cpu, torch.float32))
    hook.remove()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(torch.equal(a, b["exp_avg"]) for a, b in zip(remembered, optimizer.state.values(), strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_too_many_of_them_end_the_run_with_the_last_good_state(tiny, training, byte, inside):
    model = tiny(vocab_size=320)
    poison(model, lambda n: n > 5)
    windows = Windows(DATA, 16, 1)
    message = r"finite in the 10 steps up to step 15; lower .*: the state after 15 steps is kept in .*\.pt"
    with (
        pytest.raises(UserError, match=message),
        resumable_run("pretrain", "test", {}, 100, config_and_tokenizer(model, byte), time.monotonic()) as work,
    ):
        train(model, windows, windows, training(max_steps=15), 1, work)
    with (  # again: the state is that of the last step, and no result
        pytest.raises(UserError, match=message),
        resumable_run("pretrain", "test", {}, 100, config_and_tokenizer(model, byte), time.monotonic()) as work,
    ):
        train(tiny(vocab_size=320), windows, windows, training(max_steps=15), 1, work)
    (kept,) = inside.glob(".work/pretrain/*/step-*")
    loaded, _ = load_checkpoint(kept)
    good = tiny(vocab_size=320)
    with killed_at(5, pytest.MonkeyPatch()):
        train(good, windows, windows, training(max_steps=15), 1)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), good.parameters(), strict=True))
