"""Damaged inputs by the hundred through the real stages; tests/support/mutations.py tries as many as you like."""

import os
import subprocess
import sys

import pytest
from imports import ROOT


@pytest.mark.slow
def test_a_damaged_input_is_refused_or_changes_nothing():
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "support" / "mutations.py", "--cases", "120", "--seed", "1"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr


BEFORE = {"stdout": "", "data/train.bin": b"1", "models/pretrain/config.json": b"2"}
EXPECTED = BEFORE | {"models/new/config.json": b"3"}


@pytest.mark.parametrize(
    ("status", "err", "changed", "verdict"),
    [
        (1, "note\nerror: data/train.bin: damaged\n", {}, "refused"),
        (0, "step 1\n", {"models/new/config.json": b"3"}, "same"),
        (0, "", {"models/new/config.json": b"4"}, "another result: models/new/config.json"),
        (0, "", {}, "another result: models/new/config.json"),
        (0, "", {"models/new/config.json": b"3", "stdout": "text"}, "another result: stdout"),
        (1, "error: damaged\n", {"models/pretrain/config.json": b"5"}, "refused, and changed models/pretrain/config"),
        (1, "error: damaged\n", {"models/.new.tmp/a": b""}, "refused, and changed models/.new.tmp/a"),
        (1, "error: damaged\nin line 3\n", {}, "refused, and not in one line"),
        (1, "error: \x1b[31mdamaged\n", {}, "refused, and not in one line"),
        (1, "", {}, "refused, and not in one line"),
        (1, "Traceback (most recent call last):\nKeyError: 'a'\n", {}, "status 1: KeyError: 'a'"),
        (-11, "", {}, "status -11"),
        (-9, "step 1\n", {}, "no end after 60 s"),
        (0, "error: damaged\n", {"models/new/config.json": b"3"}, "status 0 after"),
    ],
)
def test_what_is_right_and_what_is_wrong(status, err, changed, verdict):
    from mutations import Done, judge  # here: it imports all that the stages do

    assert judge(Done(status, "", err, 1.0), BEFORE, BEFORE | changed, EXPECTED, "data/train.bin").startswith(verdict)
