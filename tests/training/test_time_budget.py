import itertools

import pytest
from killed import DATA, assert_same, killed_at, run

from nanogpt.data.tokens.batches import Windows
from nanogpt.hardware.matmul_rates import measured_rates
from nanogpt.training import time_budget
from nanogpt.training.loop import train
from nanogpt.training.settings import fix_steps

pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture
def clock(monkeypatch):
    """Each look at the clock finds it half a second later."""
    measured_rates()  # by the real clock, and kept
    ticks = itertools.count(0, 0.5)
    monkeypatch.setattr(time_budget.time, "perf_counter", lambda: next(ticks))


def test_steps_and_validations_fill_the_minutes(tiny, training, clock):
    windows = Windows(DATA, 16, 1)
    settings = training(max_minutes=2.0, eval_every=5)
    record = train(tiny(), windows, windows, settings, 1)
    # 11 steps until 5 s were timed, each two looks at the clock, and so the validation: with the last, 12.5 s
    assert record.max_steps == record.step == int((120 - 12.5) / (0.5 + 0.5 / 5))


def test_the_run_is_that_of_the_same_number_of_steps(tiny, training, clock):
    settings = training(max_minutes=0.3, warmup_steps=0.25)
    model, record = run(tiny(dropout=0.1), settings)
    assert record.max_steps > 4
    assert_same((model, record), run(tiny(dropout=0.1), fix_steps(settings, record.max_steps)))


def test_a_resumed_run_keeps_its_number_of_steps(tiny, training, monkeypatch):
    counts = iter([9, 5, 5])
    monkeypatch.setattr("nanogpt.training.loop.steps_in_budget", lambda *_: next(counts))
    settings = training(max_minutes=1.0)
    with killed_at(7, monkeypatch):
        run(tiny(), settings)
    _, record = run(tiny(), settings)
    assert (record.max_steps, record.step) == (9, 9)
    assert run(tiny(), settings)[1].step == 5  # another run measures anew


def test_a_time_that_is_too_short_is_one_step(tiny, training, clock):
    assert run(tiny(), training(max_minutes=0.01))[1].step == 1
