"""Every race starts processes, a second or two each: one race shows all that goes well."""

import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from nanogpt.benchmark.timing import TIMED, WARM_UP, Steps, Times, time_in_turns
from nanogpt.runtime.errors import UserError

HELD = 200  # MiB
BALLAST = 600


@dataclass
class Note:
    """What a step noted: whose it is, its process, when it began and ended, and a variable of its environment."""

    name: str
    pid: int
    start: float
    end: float
    variable: str


def sleepers(folder: Path, variable: str, held_mib: int, naps: dict[str, float]) -> Steps:
    """Steps that sleep so long, in a process that set a variable of its environment and holds some memory."""
    held = b"x" * (held_mib << 20)
    if variable:
        os.environ["TEST_RACE"] = variable

    def step(name: str, nap: float) -> int:
        start = time.monotonic()
        time.sleep(nap)
        with (folder / "notes").open("a") as file:
            print(name, os.getpid(), start, time.monotonic(), os.environ.get("TEST_RACE", "-"), file=file)
        return len(held)

    return {name: partial(step, name, nap) for name, nap in naps.items()}


def noted(folder: Path) -> list[Note]:
    fields = [line.split() for line in (folder / "notes").read_text().splitlines()]
    return [Note(name, int(pid), float(start), float(end), variable) for name, pid, start, end, variable in fields]


def failing(end: Callable[[], None], calls: int) -> Steps:
    """Ends badly in that call of its step, or with 0 before there is a step."""
    left = iter(range(calls))

    def step() -> None:
        if next(left) == calls - 1:
            end()

    if not calls:
        end()
    return {"step": step}


def breaks() -> None:
    raise ValueError("there is no pancake")


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def raced(tmp_path_factory) -> tuple[Times, list[Note]]:
    folder = tmp_path_factory.mktemp("race")
    ballast = b"x" * (BALLAST << 20)
    times = time_in_turns(
        {
            "light": partial(sleepers, folder, "set", 0, {"short": 0.02, "long": 0.06}),
            "heavy": partial(sleepers, folder, "", HELD, {"heavy": 0.04}),
        },
        steps=TIMED + 1,
    )
    assert len(ballast) == BALLAST << 20
    return times, noted(folder)


def test_times_are_those_of_the_steps(raced):
    times, _ = raced
    assert {name: len(seconds) for name, seconds in times.seconds.items()} == dict.fromkeys(
        ("short", "long", "heavy"), 2 * TIMED
    )
    for name, nap in {"short": 0.02, "long": 0.06, "heavy": 0.04}.items():
        assert min(times.seconds[name]) >= nap  # time.sleep never ends early
        assert times.medians[name] < 10 * nap
    assert times.medians["short"] < times.medians["long"]


def test_a_median_leaves_out_what_was_held_up():
    assert Times({"a": [1.0, 90.0, 2.0], "b": [3.0, 5.0]}, {}).medians == {"a": 2.0, "b": 4.0}


def test_they_go_in_turns(raced):
    _, notes = raced
    turn = [name for name in ("short", "long", "heavy") for _ in range(WARM_UP + TIMED)]
    assert [note.name for note in notes] == ["short", "long", "heavy", *turn, *turn]


def test_one_process_works_at_a_time(raced):
    _, notes = raced
    assert all(before.end <= after.start for before, after in itertools.pairwise(notes))


def test_each_entry_has_a_process_and_an_environment_of_its_own(raced):
    _, notes = raced
    pids = {name: {note.pid for note in notes if note.name == name} for name in ("short", "long", "heavy")}
    assert pids["short"] == pids["long"]
    assert len(pids["short"] | pids["heavy"] | {os.getpid()}) == 3
    assert {(note.name, note.variable) for note in notes} == {("short", "set"), ("long", "set"), ("heavy", "-")}
    assert "TEST_RACE" not in os.environ


def test_memory_is_that_of_the_process(raced):
    times, _ = raced
    assert set(times.peak_mib) == {"light", "heavy"}
    assert 10 < times.peak_mib["light"] < BALLAST
    assert times.peak_mib["heavy"] - times.peak_mib["light"] == pytest.approx(HELD, rel=0.2)


def test_no_process_is_left(raced):
    _, notes = raced
    assert multiprocessing.active_children() == []
    assert not any(alive(note.pid) for note in notes)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    "calls",
    [pytest.param(0, id="in the entry"), pytest.param(2, id="in a step", marks=pytest.mark.slow)],
)
def test_an_error_shows_whose_it_is_and_where(calls):
    with pytest.raises(RuntimeError, match=r"(?s)^pancakes: Traceback.*in breaks.*ValueError: there is no pancake"):
        time_in_turns({"pancakes": partial(failing, breaks, calls)}, steps=1)
    assert multiprocessing.active_children() == []


def test_a_process_that_dies_is_the_users_to_mend(tmp_path):
    """Linux ends one that finds no memory. The others, which wait for their turn, are ended as well."""
    entries = {
        "waits": partial(sleepers, tmp_path, "", 0, {"waits": 0.0}),
        "dies": partial(failing, dies, 2),
    }
    with pytest.raises(UserError, match=r"process for dies ended with status -9.* benchmark\.batch_size"):
        time_in_turns(entries, steps=1)
    assert multiprocessing.active_children() == []
    assert not any(alive(note.pid) for note in noted(tmp_path))


@pytest.mark.slow
def test_a_process_that_dies_before_its_first_step():
    with pytest.raises(UserError, match=r"process for dies ended with status -9"):
        time_in_turns({"dies": partial(failing, dies, 0)}, steps=1)
