"""A killed run is resumed to the same bits; each attempt starts from a new model, as a process does."""

import time

import pytest
import torch
from killed import DATA, assert_same, killed_at, run

from nanogpt.checkpoint.folder import config_and_tokenizer, load_checkpoint
from nanogpt.data.tokens.batches import Windows
from nanogpt.lora.attach import attach_adapter
from nanogpt.lora.settings import LoraSettings
from nanogpt.model.build import model_flops
from nanogpt.training.loop import resolve_run, train
from nanogpt.training.resume import resumable_run

pytestmark = pytest.mark.usefixtures("inside")


def adapted(model):
    settings = LoraSettings(4, 4.0, 0.1, "all", "lora", 20, None, 4, 0.0, "adamw", 1e-3, 1e-4, 2)
    return attach_adapter(model, settings, seed=1)


CASES = {
    "plain": {},
    "accumulated": {"settings": {"grad_accum": 3}},
    "dropout": {"model": {"dropout": 0.3}},
    "two threads": {"settings": {"threads": 2}, "model": {"n_embd": 64, "vocab_size": 640}},
    "muon": {"settings": {"optimizer": "muon", "lr": 0.01}},
    "the best weights": {"settings": {"keep": "best", "eval_every": 1, "lr": 0.3, "min_lr": 0.3}},
    "until patience ends": {"settings": {"patience": 4, "eval_every": 1, "lr": 0.3, "min_lr": 0.3}},
    "lora": {"lora": True, "model": {"dropout": 0.2}},
    "lora by muon": {"lora": True, "settings": {"optimizer": "muon", "lr": 0.01}},
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("arch", ["base", "optimized"])
def test_a_killed_run_ends_in_the_bits_of_one_that_never_saves(tiny, training, monkeypatch, arch, name):
    given = CASES[name]
    settings = training(**{"max_steps": 11, "eval_every": 4, "log_every": 3, **given.get("settings", {})})

    def make():
        model = tiny(arch, **given.get("model", {}))
        return adapted(model) if given.get("lora") else model

    record = train(model := make(), Windows(DATA, 16, 1), Windows(DATA, 16, 1), settings, 1)
    whole = model.state_dict(), record
    for step in (2, 7, 10):  # before the first state, in the middle, and twice in one run
        with killed_at(step, monkeypatch):
            run(make(), settings)
        torch.rand(5)  # the state of torch's generator is not to matter
    assert_same(run(make(), settings), whole)


@pytest.mark.slow
def test_a_compiled_run_too(tiny, training, monkeypatch):
    settings = training(max_steps=8, compile="on", threads=2, dtype="bfloat16")
    shape = {"n_embd": 64, "vocab_size": 640, "dropout": 0.1}
    whole = run(tiny("optimized", **shape), settings)
    with killed_at(6, monkeypatch):
        run(tiny("optimized", **shape), settings)
    torch.compiler.reset()  # compile anew, as another process does
    assert_same(run(tiny("optimized", **shape), settings), whole)


def test_a_resumed_run_keeps_what_auto_was_resolved_to(tiny, training, monkeypatch):
    settings = training(max_steps=10, dtype="auto", threads="auto", compile="auto", device="auto")
    with monkeypatch.context() as other:
        other.setattr("nanogpt.hardware.auto.usable_cores", lambda: 3)
        other.setattr("nanogpt.hardware.auto.choose_dtype", lambda *_: torch.bfloat16)
        whole = run(tiny(), settings)
        with killed_at(6, monkeypatch):
            run(tiny(), settings)
    monkeypatch.setattr("nanogpt.hardware.auto.usable_cores", lambda: 1)
    monkeypatch.setattr("nanogpt.hardware.auto.choose_dtype", lambda *_: torch.float32)
    again = run(tiny(), settings)
    assert_same(again, whole)
    assert (again[1].machines[0]["threads"], again[1].machines[0]["dtype"]) == (3, "bfloat16")
    fresh = resolve_run(tiny().config, settings)
    assert (fresh.threads, fresh.dtype) == (1, "float32")


def test_whether_to_compile_is_asked_for_the_length_of_the_run(tiny, training, monkeypatch):
    asked = []
    monkeypatch.setattr("nanogpt.hardware.auto.should_compile", lambda wanted, flops, device: asked.append(flops))
    config = tiny().config
    for settings in (training(max_steps=7, batch_size=2, grad_accum=3), training(max_minutes=2.0)):
        resolve_run(config, settings)
    assert asked == [7 * model_flops(config, 2 * 3 * config.block_size), 120 * 5e11]


def test_another_machine_is_named(tiny, training, monkeypatch, capsys):
    with killed_at(6, monkeypatch):
        run(tiny(), training(max_steps=10))
    monkeypatch.setattr("nanogpt.hardware.auto.instruction_set", lambda: "another")
    _, record = run(tiny(), training(max_steps=10))
    assert [machine["instruction set"] == "another" for machine in record.machines] == [False, True]
    assert "this run began on another machine (instruction set)" in capsys.readouterr().err


def test_times_add_up_over_processes(tiny, training, monkeypatch):
    settings = training(max_steps=10, eval_every=2)
    with killed_at(7, monkeypatch):
        run(tiny(), settings, every=1)
    _, record = run(tiny(), settings, every=1)
    tokens = settings.step_sequences * 16
    assert record.timed_tokens == 8 * tokens  # of ten steps two were the first of a process
    assert 0 < record.update_s < record.loop_s < record.wall_s
    assert record.tokens_per_s == record.timed_tokens / record.loop_s
    assert min(record.first_step_s, record.validation_s, record.saving_s) > 0


def test_a_state_is_a_checkpoint(tiny, training, byte, monkeypatch, inside):
    """A model can be used while it trains, and a run that diverged continued from its last good state."""
    for arch in ("base", "optimized"):
        model = tiny(arch, vocab_size=320)
        windows, content = Windows(DATA, 16, 1), config_and_tokenizer(model, byte)
        with killed_at(4, monkeypatch), resumable_run("pretrain", arch, {}, 2, content, time.monotonic()) as resumable:
            train(model, windows, windows, training(max_steps=8), 1, resumable)
        (newest,) = (path for path in inside.glob(f".work/pretrain/{arch}-*/step-000000004-*"))
        loaded, tok = load_checkpoint(newest)
        assert tok.sha256 == byte.sha256
        ids = torch.arange(10)[None]
        assert torch.equal(loaded(ids), model.eval()(ids))


def test_what_a_state_holds_counts_as_free(tiny, training, monkeypatch):
    """It is in memory when the estimate is made, and becomes weights and moments."""
    free = []
    monkeypatch.setattr("nanogpt.hardware.memory.available_mib", lambda: 1e6)
    monkeypatch.setattr("nanogpt.training.memory_estimate.warn_of_memory", lambda *given: free.append(given[-1]))
    with killed_at(6, monkeypatch):
        run(tiny(), training(max_steps=10))
    run(tiny(), training(max_steps=10))
    run(tiny(), training(max_steps=10, keep="best"), inputs={"another": "run"})
    weights = sum(p.nbytes for p in tiny().parameters())
    assert free[0] == 1e6
    assert free[1] - 1e6 == pytest.approx(3 * weights / 2**20, rel=0.01)
    assert 1e6 - free[2] == pytest.approx(weights / 2**20, rel=0.01)
