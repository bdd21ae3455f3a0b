"""Timing starts processes, a second or two each: one series shows all that goes well."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from nanogpt.benchmark.timing import TIMED, WARM_UP, Steps, time_in_turns
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


def be_killed() -> Steps:
    return {"step": lambda: os.kill(os.getpid(), signal.SIGKILL)}


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


def test_a_killed_process_is_a_users_error_and_ends_the_others(tmp_path):
    entries = {"waits": partial(noting_steps, tmp_path, "", 0, ["waits"]), "dies": be_killed}
    with pytest.raises(UserError, match=r"process for dies was killed.* benchmark\.batch_size"):
        time_in_turns(entries, steps=1)
    assert not any(is_alive(pid) for _, pid, _ in read_notes(tmp_path))
