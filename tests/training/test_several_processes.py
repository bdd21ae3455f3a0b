"""Several processes that train together learn what one learns."""

import copy
import os
import time

import numpy as np
import pytest
import torch
from killed import DATA, Killed
from together import together

from nanogpt.data.tokens.batches import Windows
from nanogpt.data.tokens.bins import Bin, Counts
from nanogpt.hardware import process_group
from nanogpt.lora.attach import attach_adapter
from nanogpt.lora.settings import LoraSettings
from nanogpt.model.build import build_model
from nanogpt.model.config import ModelConfig
from nanogpt.model.score import score_documents
from nanogpt.runtime.errors import UserError
from nanogpt.training import loop
from nanogpt.training.exchange import OUTER_LR, OUTER_MOMENTUM
from nanogpt.training.resume import resumable_run
from nanogpt.training.schedule import learning_rate

LORA = LoraSettings(4, 4.0, 0.0, "all", "lora", 20, None, 4, 0.0, "adamw", 1e-3, 1e-4, 2)
CONFIG = ModelConfig(
    arch="optimized", n_layer=2, n_head=2, n_kv_head=1, n_embd=32, block_size=16, dropout=0.0, tie_embeddings=True,
    qk_norm=False, vocab_size=64,
)  # fmt: skip


def make() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(CONFIG)


def conversations() -> Bin:
    """Of some windows more is learned than of others."""
    tokens = np.random.default_rng(1).integers(1, 60, size=1200).astype(np.uint16)
    tokens[::12] = tokens[-1] = 0
    return Bin("chat", "train", tokens, 0, Counts(), "", np.arange(100) % 10)


def train_here(settings, kind="", folder=None, stop_at=None) -> dict:
    """Train in this process, one of several or alone; with `stop_at` it is killed there."""
    model = make()
    if kind == "adapter":
        attach_adapter(model, LORA, seed=1)
    windows = Windows(conversations() if kind == "conversations" else DATA, 16, 1)
    if folder:
        record = _train_resumable(model, windows, settings, folder, stop_at)
    else:
        record = loop.train(model, windows, windows, settings, 1)
    documents = [np.array([0, *range(1, n), 0], np.uint16) for n in range(2, 60)]
    score = score_documents(model, documents, np.ones(64, np.int64), batch_tokens=64)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses = [loss for _, loss, _ in record.train_rows]
    return {"weights": weights, "losses": losses, "val": record.val_rows, "score": score.document_nats}


def _train_resumable(model, windows, settings, folder, stop_at):
    os.chdir(folder)
    rate = loop.learning_rate

    def until(step, given):
        if step == stop_at:
            raise Killed
        return rate(step, given)

    loop.learning_rate = until
    with resumable_run("pretrain", "test", {}, 1, {}, time.monotonic()) as run:
        return loop.train(model, windows, windows, settings, 1, run)


def killed_here(*args) -> None:
    with pytest.raises(Killed):
        train_here(*args)


def assert_same(one: dict, other: dict) -> None:
    assert (one["losses"], one["val"]) == (other["losses"], other["val"])
    assert all(torch.equal(tensor, other["weights"][key]) for key, tensor in one["weights"].items())


CASES = {
    "plain": {},
    "accumulated": {"grad_accum": 3, "batch_size": 3},
    "muon": {"optimizer": "muon", "lr": 0.01},
    "adapter": {},
    "conversations": {},
    "compiled": {"compile": "on"},
}


@pytest.mark.parametrize("kind", [pytest.param(n, marks=pytest.mark.slow if n == "compiled" else ()) for n in CASES])
def test_three_processes_follow_the_curve_of_one(training, kind):
    """8 rows are divided unevenly among 3; what differs is rounding."""
    settings = training(**{"max_steps": 12, "batch_size": 8, "log_every": 1, "eval_every": 4, **CASES[kind]})
    alone = train_here(settings, kind)
    found = together(3, train_here, settings, kind)
    for each in found:
        np.testing.assert_allclose(each["losses"], alone["losses"], rtol=2e-5)
        np.testing.assert_allclose(each["val"], alone["val"], rtol=2e-5)
        np.testing.assert_allclose(each["score"], alone["score"], rtol=1e-3)
        assert_same(each, found[0])


def test_a_repetition_has_the_same_bits_and_bf16_exchanges_others(training):
    settings = training(max_steps=8, batch_size=8, log_every=1)
    one, again = (together(2, train_here, settings)[0] for _ in range(2))
    assert_same(one, again)
    rounded = together(2, train_here, training(max_steps=8, batch_size=8, log_every=1, exchange_dtype="bfloat16"))
    assert_same(*rounded)
    assert rounded[0]["losses"] != one["losses"]
    np.testing.assert_allclose(rounded[0]["losses"], one["losses"], rtol=2e-3)


@pytest.mark.parametrize("changed", [{}, {"local_steps": 4}], ids=["every step", "local steps"])
def test_a_killed_run_ends_in_the_bits_of_an_undisturbed_one(training, tmp_path, changed):
    settings = training(**{"max_steps": 15, "batch_size": 8, "log_every": 1, "eval_every": 4, **changed})
    whole = together(2, train_here, settings)[0]
    together(2, killed_here, settings, "", tmp_path, 10)
    assert list(tmp_path.glob(".work/pretrain/*/step-*.pt"))
    assert_same(together(2, train_here, settings, "", tmp_path)[0], whole)


def test_more_or_fewer_processes_go_on_from_the_state_of_others(training, tmp_path):
    settings = training(max_steps=15, batch_size=8, log_every=1)
    alone = train_here(settings)
    together(2, killed_here, settings, "", tmp_path, 5)
    together(3, killed_here, settings, "", tmp_path, 10)
    found = together(1, train_here, settings, "", tmp_path)[0]
    np.testing.assert_allclose(found["losses"], alone["losses"], rtol=5e-5)


def test_the_newest_state_of_any_host_is_gone_on_from(training, tmp_path):
    """As after a failure of the host on which the first process was."""
    settings = training(max_steps=15, batch_size=8, log_every=1)
    whole = together(2, train_here, settings)[0]
    hosts = [tmp_path / "one", tmp_path / "other"]
    for host in hosts:
        host.mkdir()
    together(2, killed_here, settings, "", hosts[1], 10)
    assert_same(together(2, _train_on, settings, hosts)[0], whole)


def _train_on(settings, hosts) -> dict:
    return train_here(settings, "", hosts[process_group.rank()])


def test_local_steps_are_diloco(training):
    """Two workers in float32 one after the other, each with AdamW of its own and its half of the rows (2311.08105)."""
    settings = training(max_steps=10, batch_size=8, log_every=1, eval_every=10, local_steps=5, grad_clip=1e9)
    found = together(2, train_here, settings)
    assert_same(*found)
    windows = Windows(DATA, 16, 1)
    common = make()
    workers = [copy.deepcopy(common) for _ in range(2)]
    optimizers = [
        torch.optim.AdamW(
            [{"params": [p for p in w.parameters() if p.dim() >= 2]},
             {"params": [p for p in w.parameters() if p.dim() < 2], "weight_decay": 0.0}],
            lr=settings.lr, betas=(settings.beta1, settings.beta2), weight_decay=settings.weight_decay,
        )
        for w in workers
    ]  # fmt: skip
    momentum = [torch.zeros_like(p) for p in common.parameters()]
    for step in range(10):
        ids, targets = windows.batch(step, 8)
        for i, (worker, optimizer) in enumerate(zip(workers, optimizers, strict=True)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, settings)
            rows = slice(4 * i, 4 * i + 4)
            logits = worker(ids[rows])
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets[rows].flatten()).backward()
            optimizer.step()
            optimizer.zero_grad()
        if step % 5 == 4:
            with torch.no_grad():
                for p, v, *mine in zip(common.parameters(), momentum, *(w.parameters() for w in workers), strict=True):
                    way = p - (mine[0] + mine[1]) / 2
                    v.mul_(OUTER_MOMENTUM).add_(way)
                    p -= OUTER_LR * (way + OUTER_MOMENTUM * v)
                    mine[0].copy_(p)
                    mine[1].copy_(p)
    for name, tensor in common.state_dict().items():
        torch.testing.assert_close(found[0]["weights"][name], tensor, rtol=1e-4, atol=2e-5)


def test_a_step_that_is_not_finite_in_one_process_is_skipped_by_all(training):
    settings = training(max_steps=6, batch_size=4, log_every=1)
    for each in together(2, _train_with_nan, settings):
        assert each["skipped"] == 1
        assert each["same"]


def _train_with_nan(settings) -> dict:
    model, windows = make(), Windows(DATA, 16, 1)
    hidden, calls = model.hidden, []

    def broken(ids):
        calls.append(ids)
        return hidden(ids) * (float("nan") if len(calls) == 3 and process_group.rank() == 1 else 1.0)

    model.hidden = broken
    record = loop.train(model, windows, windows, settings, 1)
    first = process_group.broadcast(dict(model.state_dict()))
    return {
        "skipped": record.skipped,
        "same": all(torch.equal(p, first[name]) for name, p in model.state_dict().items()),
    }


def test_every_process_needs_a_row(training):
    messages = together(3, _refused, training(batch_size=2))
    assert set(messages) == {
        "train.batch_size = 2: fewer than the 3 processes, each of which needs a row; choose more, or fewer processes"
    }


def _refused(settings) -> str:
    with pytest.raises(UserError) as refused:
        train_here(settings)
    return str(refused.value)


def test_processes_with_other_inputs_are_refused(training, tmp_path):
    for message in together(2, _with_other_inputs, tmp_path):
        assert message.startswith("the processes of this run differ in their inputs (here in ")


def _with_other_inputs(folder) -> str:
    os.chdir(folder)
    with (
        pytest.raises(UserError) as refused,
        resumable_run("pretrain", "test", {"seed": process_group.rank()}, 1, {}, time.monotonic()),
    ):
        pass
    return str(refused.value)


def test_a_time_budget_gives_all_processes_as_many_steps(training):
    found = together(2, train_here, training(max_minutes=0.05, batch_size=8, log_every=1, eval_every=10))
    assert len(found[0]["losses"]) == len(found[1]["losses"]) > 1
    assert_same(*found)
