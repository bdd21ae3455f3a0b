import copy
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from killed import DATA

from nanogpt.data.tokens.batches import Windows
from nanogpt.data.tokens.bins import Bin
from nanogpt.hardware.auto import ComputeSetup
from nanogpt.hardware.device import autocast
from nanogpt.hardware.matmul_rates import measured_rates
from nanogpt.model.score import validate
from nanogpt.runtime.errors import BadSetting, UserError
from nanogpt.training import loop
from nanogpt.training.loop import train
from nanogpt.training.settings import resolve_warmup

CPU = torch.device("cpu")


def state(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def assert_close(name: str, a: torch.Tensor, b: torch.Tensor, tolerance: float) -> None:
    if name.endswith("c_attn.bias"):  # without the keys': the loss does not depend on it, its gradient is all rounding
        a, b = (torch.cat([tensor[:16], tensor[32:]]) for tensor in (a, b))
    torch.testing.assert_close(a.double(), b.double(), rtol=0, atol=tolerance)


def trained(model, settings, seed: int = 1, data: Bin = DATA) -> dict[str, torch.Tensor]:
    windows = Windows(data, model.config.block_size, seed)
    train(model, windows, windows, settings, seed)
    return state(model)


def test_independent_tokens_are_learned_to_their_entropy_and_no_further(tiny, training):
    p = np.array([0.5, 0.25, 0.125, 0.125])
    random = np.random.default_rng(0)
    texts = (random.choice(4, size, p=p).astype(np.uint16) for size in (40_000, 8_000))
    windows, val = (Windows(replace(DATA, tokens=tokens), 16, 1) for tokens in texts)
    settings = training(max_steps=150, batch_size=16, lr=1e-2, min_lr=1e-4, eval_batches=20, eval_every=150)
    run = train(tiny(vocab_size=64), windows, val, settings, 1)
    targets = torch.cat([val.batch(i, 16)[1] for i in range(20)])
    floor = -np.log(p)[targets.numpy()].mean()  # what the generator itself pays for the same tokens
    assert floor == pytest.approx(1.75 * math.log(2), abs=0.03)
    assert -0.005 < run.val_rows[-1][1] - floor < 0.05
    assert run.train_losses[0] > floor + 0.5


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize(("arch", "tied"), [("base", True), ("optimized", False)])
def test_embeddings_and_head_move_by_a_multiple(tiny, training, arch, tied, optimizer):
    """Of the first step, whose length is the learning rate, as there is no weight decay."""
    start = tiny(arch, tie_embeddings=tied, vocab_size=64)
    steps = []
    for multiple in (1.0, 3.0):
        settings = training(
            max_steps=1, eval_every=1, warmup_steps=0, weight_decay=0.0, optimizer=optimizer, embedding_lr=multiple
        )
        after = trained(copy.deepcopy(start), settings)
        steps.append({name: after[name] - before for name, before in start.state_dict().items()})
    for name, step in steps[0].items():
        moved = any(part in name for part in ("wte", "wpe", "embed_tokens", "lm_head"))
        torch.testing.assert_close(steps[1][name], step * (3.0 if moved else 1.0), rtol=1e-3, atol=1e-6)
        assert step.abs().max() > 1e-4


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("arch", ["base", "optimized"])
def test_the_same_seed_gives_the_same_bits(tiny, training, arch, dropout):
    first = trained(tiny(arch, dropout=dropout), training())
    torch.rand(7)  # the state of torch's generator is not to matter
    assert equal(first, trained(tiny(arch, dropout=dropout), training()))
    assert not equal(first, trained(tiny(arch, dropout=dropout), training(), seed=2))
    if dropout:
        assert not equal(first, trained(tiny(arch), training()))


def test_a_loaded_model_and_one_that_was_just_validated_drop_too(tiny, training):
    plain = trained(tiny(dropout=0.2), training())
    assert equal(plain, trained(tiny(dropout=0.2).eval(), training()))
    assert equal(plain, trained(tiny(dropout=0.2), training(eval_every=1)))


def test_dropout_differs_from_step_to_step_and_seed_to_seed(tiny, training):
    """With one window in the data, batches are all the same: what differs is dropout alone."""
    data = replace(DATA, tokens=DATA.tokens[:17])
    settings = training(max_steps=4, log_every=1, lr=1e-9, min_lr=1e-9, warmup_steps=0)
    losses = []
    for seed in (1, 2):
        windows = Windows(data, 16, seed)
        losses += train(tiny(dropout=0.5), windows, windows, settings, seed).train_losses
    assert len(set(losses)) == 8


@pytest.mark.parametrize("arch", ["base", "optimized"])
@pytest.mark.parametrize("tie", [False, True])
def test_the_loop_is_a_plain_one_in_float64(tiny, training, arch, tie):
    settings = training(max_steps=20, grad_accum=2, weight_decay=0.2, grad_clip=0.5, log_every=1)
    model = tiny(arch, tie_embeddings=tie, n_layer=2)
    reference = copy.deepcopy(model).double()
    windows = Windows(DATA, 16, 3)
    run = train(model, windows, windows, settings, 3)

    parameters = list(reference.parameters())
    mean, variance = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    losses = []
    clipped = 0
    for t in range(1, 21):
        sample = [windows.starts(np.arange((t - 1) * 8, t * 8))]
        rows = np.stack([windows.bin.tokens[s : s + 17].astype(np.int64) for s in sample[0]])
        ids, targets = torch.from_numpy(rows[:, :-1]), torch.from_numpy(rows[:, 1:])
        logits = reference(ids)
        loss = -(logits - logits.logsumexp(-1, keepdim=True)).gather(-1, targets[..., None]).mean()
        gradients = torch.autograd.grad(loss, parameters)
        norm = math.sqrt(sum((g**2).sum().item() for g in gradients))
        clipped += norm > 0.5
        lr = 3e-3 * t / 3 if t <= 3 else 3e-4 + (3e-3 - 3e-4) * (1 + math.cos(math.pi * (t - 4) / 16)) / 2
        with torch.no_grad():
            for p, g, m, v in zip(parameters, gradients, mean, variance, strict=True):
                g = g * min(1.0, 0.5 / norm)
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.98).add_(0.02 * g**2)
                if p.dim() == 2:
                    p.mul_(1 - lr * 0.2)
                p.sub_(lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.98**t)).sqrt() + 1e-8))
        losses.append(loss.item())
    assert clipped > 5
    assert run.train_losses == pytest.approx(losses, abs=2e-4)
    for (name, p), q in zip(model.named_parameters(), parameters, strict=True):
        assert_close(name, p, q, 5e-4)


def test_bfloat16_is_for_products_only(tiny, training):
    model, other = tiny(), tiny()
    trained(model, training(dtype="bfloat16"))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    trained(other, training())
    assert not equal(state(model), state(other))
    with torch.no_grad(), autocast(CPU, torch.float32):
        x, y = Windows(DATA, 16, 1).batch(0, 8)
        assert model(x, y).item() == pytest.approx(other(x, y).item(), abs=0.05)


def test_frozen_parameters_never_change(tiny, training):
    model = tiny()
    frozen = ("transformer.wte.weight", "transformer.h.0.attn.c_attn.bias", "lm_head.weight")
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    before = state(model)
    after = trained(model, training(weight_decay=0.5))
    for name in before:
        assert torch.equal(before[name], after[name]) == (name in frozen), name


def test_the_curves(tiny, training):
    windows = Windows(DATA, 16, 1)
    run = train(tiny(), windows, windows, training(max_steps=23, log_every=5, eval_every=10), 1)
    assert [step for step, *_ in run.train_rows] == [5, 10, 15, 20, 23]
    assert [step for step, _ in run.val_rows] == [10, 20, 23]
    assert run.train_rows[-1][2] == pytest.approx(3e-4)
    each = train(tiny(), windows, windows, training(max_steps=23, log_every=1, eval_every=1), 1)
    assert [lr for *_, lr in each.train_rows[:3]] == pytest.approx([1e-3, 2e-3, 3e-3])
    # validation in between changes nothing, and a row is the mean of the steps since the last
    assert run.train_losses == pytest.approx(
        [np.mean(each.train_losses[a:b]) for a, b in ((0, 5), (5, 10), (10, 15), (15, 20), (20, 23))]
    )
    assert run.val_rows == [each.val_rows[i] for i in (9, 19, 22)]


def test_where_time_is_spent(tiny, training, monkeypatch):
    """With a clock that advances by a second at each call: four calls a step, and one more after a validation."""
    measured_rates()  # by the real clock, and kept
    ticks = itertools.count()
    monkeypatch.setattr(loop.time, "perf_counter", lambda: float(next(ticks)))
    windows = Windows(DATA, 16, 1)
    run = train(tiny(), windows, windows, training(max_steps=20, eval_every=5, grad_accum=2), 1)
    assert (run.first_step_s, run.loop_s, run.update_s, run.validation_s) == (3.0, 19 * 3.0, 19.0, 4.0)
    assert run.tokens_per_s == 19 * 4 * 2 * 16 / 57
    assert run.overhead_share == pytest.approx(2 / 3)


def test_a_loss_that_is_never_finite(tiny, training):
    model = tiny()
    with torch.no_grad():
        model.lm_head.weight[3, 3] = math.inf
    with pytest.raises(UserError, match=r"no loss and gradient were finite in the 3 steps up to step 3"):
        trained(model, training(max_steps=3, warmup_steps=0))


def test_a_validation_loss_that_is_not_finite(tiny, training):
    """The weights may break in the very last step, which no training loss sees any more."""
    with pytest.raises(UserError, match=r"the validation loss is not finite after step 1; lower train.lr \(1 there\)"):
        trained(tiny(), training(max_steps=1, warmup_steps=0, lr=1.0, min_lr=1.0, weight_decay=1e30))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range(tiny, training, seed):
    with pytest.raises(UserError, match=rf"seed = {seed}: not between 0 and 4294967295"):
        trained(tiny(), training(), seed)


def test_a_warm_up_given_as_a_share_of_the_steps(tiny, training):
    share, steps = training(max_steps=20, warmup_steps=0.15), training(max_steps=20, warmup_steps=3)
    assert resolve_warmup(share) == steps == resolve_warmup(steps)
    assert resolve_warmup(training(max_steps=1, warmup_steps=0.9)).warmup_steps == 0
    timed = training(max_minutes=1.0, warmup_steps=0.15)
    assert resolve_warmup(timed) == timed  # the number of steps is not known yet
    assert equal(trained(tiny(), share), trained(tiny(), steps))
    for wrong in (-0.1, 1.0, 20, -1):
        with pytest.raises(BadSetting, match=r"warmup_steps = .* not .* a twentieth of max_steps"):
            training(max_steps=20, warmup_steps=wrong)


def test_a_compiled_run_that_is_resumed_without_a_compiler(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    with_one = ComputeSetup("cpu", "float32", "torch's own", 1, True)
    with pytest.raises(UserError, match=r"train\.compile = 'on': a C\+\+ compiler .* is missing here"):
        with_one.apply()


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_weights_of_the_lowest_validation_loss_are_kept(tiny, training, capsys, keep):
    train_windows, val_windows = Windows(DATA, 16, 1), Windows(replace(DATA, tokens=DATA.tokens[:500]), 16, 1)
    model = tiny()
    settings = training(keep=keep, eval_every=2, lr=0.1, min_lr=0.1, warmup_steps=0)
    losses = [loss for _, loss in train(model, train_windows, val_windows, settings, 1).val_rows]
    assert min(losses) < losses[-1]
    assert f"validation {losses[-1]:.3f}, " in capsys.readouterr().err
    kept = validate(model, val_windows, settings.eval_batches, settings.batch_size)
    assert kept == (min(losses) if keep == "best" else losses[-1])


def test_a_run_ends_when_patience_does(tiny, training):
    windows = Windows(DATA, 16, 1)
    settings = training(patience=3, eval_every=2, lr=0.1, min_lr=0.1, warmup_steps=0, max_steps=200)
    record = train(tiny(), windows, windows, settings, 1)
    losses = [loss for _, loss in record.val_rows]
    assert record.step == 2 * len(losses) < 200
    assert min(losses) == losses[-4] < min(losses[-3:])
