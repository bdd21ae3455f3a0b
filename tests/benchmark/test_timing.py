"""Timing starts processes, a second or two each: one series shows all that goes well."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from nanogpt.benchmark.timing import TIMED, WARM_UP, Steps, Times, time_in_turns
from nanogpt.runtime.errors import UserError

HELD_MIB = 200


def noting_steps(folder: Path, variable: str, held_mib: int, names: list[str]) -> Steps:
    """Steps that note name, process and a variable of the environment, in a process that set it and holds memory."""
    held = b"x" * (held_mib << 20)
    if variable:
        os.environ["TEST_TURNS"] = variable

    def step(name: str) -> int:
        with (folder / "notes").open("a") as file:
            print(name, os.getpid(), os.environ.get("TEST_TURNS", "-"), file=file)
        return len(held)

    return {name: partial(step, name) for name in names}


def read_notes(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "notes").read_text().splitlines()]


def failing_steps(end: Callable[[], None], calls: int) -> Steps:
    """A step that calls `end` in the given call, or with 0 before there is a step."""
    left = iter(range(calls))

    def step() -> None:
        if next(left) == calls - 1:
            end()

    if not calls:
        end()
    return {"step": step}


def raise_error() -> None:
    raise ValueError("there is no pancake")


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return True


def test_turns(tmp_path):
    entries = {
        "light": partial(noting_steps, tmp_path, "set", 0, ["first", "second"]),
        "heavy": partial(noting_steps, tmp_path, "", HELD_MIB, ["heavy"]),
    }
    times = time_in_turns(entries, steps=TIMED + 1)
    assert {name: len(seconds) for name, seconds in times.seconds.items()} == dict.fromkeys(
        ("first", "second", "heavy"), 2 * TIMED
    )
    notes = read_notes(tmp_path)
    turn = [name for name in ("first", "second", "heavy") for _ in range(WARM_UP + TIMED)]
    assert [name for name, _, _ in notes] == ["first", "second", "heavy", *turn, *turn]
    assert len({(pid, variable) for _, pid, variable in notes}) == 2  # each entry has a process and an environment
    assert {(name, variable) for name, _, variable in notes} == {("first", "set"), ("second", "set"), ("heavy", "-")}
    assert times.peak_mib["heavy"] - times.peak_mib["light"] == pytest.approx(HELD_MIB, rel=0.2)
    assert not any(is_alive(pid) for _, pid, _ in notes)


def test_medians():
    assert Times({"a": [1.0, 90.0, 2.0], "b": [3.0, 5.0]}, {}).medians == {"a": 2.0, "b": 4.0}


@pytest.mark.parametrize("calls", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_an_error_is_shown_with_its_name_and_traceback(calls):
    with pytest.raises(RuntimeError, match=r"(?s)^pancakes: Traceback.*in raise_error.*there is no pancake"):
        time_in_turns({"pancakes": partial(failing_steps, raise_error, calls)}, steps=1)
    assert multiprocessing.active_children() == []


def test_a_killed_process_is_a_users_error_and_ends_the_others(tmp_path):
    """Linux kills a process when memory is short."""
    entries = {
        "waits": partial(noting_steps, tmp_path, "", 0, ["waits"]),
        "dies": partial(failing_steps, be_killed, 2),
    }
    with pytest.raises(UserError, match=r"process for dies ended with status -9.* benchmark\.batch_size"):
        time_in_turns(entries, steps=1)
    assert not any(is_alive(pid) for _, pid, _ in read_notes(tmp_path))
