"""Damaged inputs by the hundred through the real stages; tests/support/mutations.py tries as many as you like."""

import os
import subprocess
import sys

import pytest
from imports import ROOT


@pytest.mark.slow
def test_a_damaged_input_is_refused_or_changes_nothing():
    command = [sys.executable, ROOT / "tests" / "support" / "mutations.py", "--cases", "60", "--seed", "1"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
