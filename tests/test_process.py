import subprocess
import sys

import pytest

from nanogpt.errors import BadSetting, UserError


def run(code: str) -> subprocess.CompletedProcess:
    code = f"from nanogpt import errors\ndef main():\n    {code}\nerrors.run(main)\nprint('after')"
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


def test_a_bad_setting_seen_from_further_out():
    bad = BadSetting("lr", "x", "not a number", "write one").inside("train").inside("all")
    assert isinstance(bad, UserError)
    assert (bad.key, bad.value, bad.reason, bad.remedy) == ("all.train.lr", "x", "not a number", "write one")
    assert str(bad) == "all.train.lr = 'x': not a number; write one"
