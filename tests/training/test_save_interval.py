"""How often a run is saved."""

import pytest

from nanogpt.runtime.errors import UserError
from nanogpt.training.save_interval import SaveInterval, parse_interval


@pytest.mark.parametrize(
    ("value", "steps", "seconds"), [(1, 1, None), ("0.5 s", None, 0.5), ("10m", None, 600), ("1h", None, 3600)]
)
def test_how_often(value, steps, seconds):
    assert parse_interval(value) == SaveInterval(steps, seconds)


@pytest.mark.parametrize("value", [0, "s", "0s", "5d", "-3s", "500", "10 steps"])
def test_how_often_is_none_of_these(value, training):
    with pytest.raises(UserError, match=r"checkpoint_every = .*: neither steps nor a time; write 500 for steps"):
        training(checkpoint_every=value)


def test_when_a_save_is_due():
    steps, seconds = parse_interval(50), parse_interval("60s")
    assert [step for step in range(1, 151) if steps.due(step, since=1e9, cost=0)] == [50, 100, 150]
    assert not seconds.due(7, since=59, cost=0) and seconds.due(7, since=60, cost=1)
    assert not seconds.due(7, since=499, cost=10) and seconds.due(7, since=500, cost=10)  # 2% of a slow disk


def test_states_are_saved_where_processes_have_one_model(training):
    assert training(checkpoint_every=100, local_steps=20, eval_every=40).local_steps == 20
    with pytest.raises(UserError, match=r"local_steps = 20: does not divide checkpoint_every = 50; choose one that"):
        training(checkpoint_every=50, local_steps=20, eval_every=40)
