"""A stage's process under real signals, and under a real parent that dies."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from imports import ROOT


def run(code: str) -> subprocess.CompletedProcess:
    code = f"from nanogpt import errors, process\ndef main():\n    {code}\nprocess.run(main)\nprint('after')"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_nothing_wrong():
    done = run("print('work')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "work\nafter\n", "")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise errors.UserError('no such file; make it')", "error: no such file; make it\n"),
        ("raise errors.BadSetting('lr', -1, 'is negative', 'try 1')", "error: lr = -1: is negative; try 1\n"),
    ],
)
def test_a_users_mistake_ends_with_1_and_one_line(code, message):
    done = run(code)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)


def test_an_interruption_ends_with_130():
    done = run("raise KeyboardInterrupt")
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "interrupted: nothing half-done was kept; run the same command again\n"


def test_our_own_mistakes_keep_their_traceback():
    done = run("1 / 0")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "ZeroDivisionError" in done.stderr


ENV = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
WAITS = """
import time
from nanogpt import process
def main():
    try:
        print("begun")
        time.sleep(60)
    finally:
        print("tidied up")
process.run(main)
"""
STEPS = """
import time
from nanogpt import process
def main():
    with process.deferred() as stop:
        for step in range(600):
            print(step)
            for _ in range(10):
                time.sleep(0.01)
            if stop.asked:
                print("saved")
                raise KeyboardInterrupt("step so and so is kept")
process.run(main)
"""


def begun(*words: str, **env: str) -> subprocess.Popen:
    """A process that has printed its first line."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(words, **pipes, env=ENV | env, start_new_session=True)
    process.first = process.stdout.readline().strip()
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_interrupt(number):
    process = begun(sys.executable, "-c", WAITS)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "tidied up\n")
    assert err == "interrupted: nothing half-done was kept; run the same command again\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_deferred_signal_waits_for_the_step(number):
    process = begun(sys.executable, "-c", STEPS)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert out.endswith("saved\n") and len(out.split()) < 10
    assert err == "stopping after this step; once more to stop at once\ninterrupted: step so and so is kept\n"


def test_a_second_one_does_not_wait():
    process = begun(sys.executable, "-c", STEPS.replace("range(10)", "range(1000)"))
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline().startswith("stopping after this step")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=5)  # the step takes ten seconds
    assert process.returncode == 130
    assert "saved" not in out


def test_a_hangup_that_is_ignored_stays_ignored():
    """As under nohup: a run outlives its terminal."""
    process = begun("sh", "-c", 'trap "" HUP; exec "$0" -c "$1"', sys.executable, STEPS)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    process.kill()
    process.communicate()


PARENT = """
import subprocess, sys, time
child = subprocess.Popen(sys.argv[1:])
print("parent")
time.sleep(60)
"""


@pytest.mark.parametrize("shell", [[], ["sh", "-c", '"$0" "$@"; true']], ids=["itself", "through a shell"])
def test_a_stage_ends_with_its_dvc(shell):
    """The parent is killed; nobody is left to signal its child."""
    process = begun(sys.executable, "-c", PARENT, *shell, sys.executable, "-c", STEPS, DVC_ROOT="/somewhere")
    time.sleep(1)  # until the child knows its parent
    process.kill()
    out, err = process.communicate(timeout=20)  # ends when the child has closed the pipes
    assert out.endswith("saved\n")
    assert "the dvc that started this stage has ended\nstopping after this step" in err


def test_a_stage_by_hand_outlives_its_parent():
    without = {key: value for key, value in ENV.items() if key != "DVC_ROOT"}
    words = [sys.executable, "-c", PARENT, sys.executable, "-c", STEPS.replace("range(600)", "range(20)")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=without)
    process.stdout.readline()
    process.kill()
    out, _ = process.communicate(timeout=20)
    assert re.search(r"^19$", out, re.MULTILINE)
