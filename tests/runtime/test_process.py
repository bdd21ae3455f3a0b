"""A stage's process under real signals, under a real parent that dies, and as a parent."""

import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from imports import ROOT

from nanogpt.runtime.process import launch_stage


def run(code: str) -> subprocess.CompletedProcess:
    code = (
        f"from nanogpt.runtime import errors, process\ndef main():\n    {code}\nprocess.run_stage(main)\nprint('after')"
    )
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


def test_what_the_disk_says_is_one_line():
    done = run("open('/dev/full', 'w').write('x' * 10**6)")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: No space left on device; put that right, and run the same command again\n"
    done = run("raise PermissionError(13, 'Permission denied', 'models/x')")
    assert done.stderr.startswith("error: models/x: Permission denied; ")
    assert "Traceback" in run("open('no/such/file')").stderr


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
from nanogpt.runtime import process
def main():
    try:
        print("begun")
        time.sleep(60)
    finally:
        print("tidied up")
process.run_stage(main)
"""
STEPS = """
import time
from nanogpt.runtime import process
def main():
    with process.defer_signals() as stop:
        for step in range(600):
            print(step)
            for _ in range(10):
                time.sleep(0.01)
            if stop.requested:
                print("saved")
                raise KeyboardInterrupt("step so and so is kept")
process.run_stage(main)
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
    assert err == "stopping after this step; Ctrl-C then stops at once\ninterrupted: step so and so is kept\n"


def test_a_second_one_does_not_wait():
    process = begun(sys.executable, "-c", STEPS.replace("range(10)", "range(1000)"))
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline().startswith("stopping after this step")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=5)  # the step takes ten seconds
    assert process.returncode == 130
    assert "saved" not in out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_to_be_told_again_by_other_than_ctrl_c_changes_nothing(number):
    """In the midst of a long step, and when it is over: the system tells a stage, and that its dvc has ended."""
    slow = STEPS.replace("range(10)", "range(100)").replace(
        "raise Key", "import os; os.kill(os.getpid(), 15); raise Key"
    )
    process = begun(sys.executable, "-c", slow)
    for _ in range(3):
        process.send_signal(number)
        time.sleep(0.1)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130 and out.endswith("saved\n")
    assert err == "stopping after this step; Ctrl-C then stops at once\ninterrupted: step so and so is kept\n"


def test_a_signal_to_all_that_ends_dvc_too():
    """As of a closed terminal: the stage is told at once, and half a second later that nobody waits for it."""
    slow = STEPS.replace("range(10)", "range(200)")
    process = begun(sys.executable, "-c", PARENT, sys.executable, "-c", slow, DVC_ROOT="/somewhere")
    time.sleep(1)  # until the child knows its parent
    os.killpg(process.pid, signal.SIGHUP)
    out, err = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGHUP and out.endswith("saved\n")
    assert "what started this stage has ended" in err


def test_a_terminal_that_is_closed(tmp_path):
    """All that is printed there fails from then on; the state is saved nevertheless."""
    saves = STEPS.replace('print("saved")', f'open({str(tmp_path / "saved")!r}, "w").write("saved")')
    saves = saves.replace("print(step)", "print(step, file=sys.stderr, flush=True)").replace(
        "import time", "import sys, time"
    )
    pid, terminal = pty.fork()
    if not pid:
        os.execve(sys.executable, [sys.executable, "-c", saves], ENV)
    assert os.read(terminal, 1) == b"0"
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    assert (tmp_path / "saved").read_text() == "saved"


def test_what_is_ending_is_not_disturbed():
    process = begun(
        sys.executable, "-c", WAITS.replace("finally:", "finally:\n        print(1)\n        time.sleep(1)")
    )
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "1\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == "tidied up\n"
    assert process.returncode == 130


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


@pytest.mark.parametrize("name", ["DVC_ROOT", "NANOGPT_ENDS_WITH_PARENT"])
@pytest.mark.parametrize("shell", [[], ["sh", "-c", '"$0" "$@"; true']], ids=["itself", "through a shell"])
def test_a_stage_ends_with_its_dvc(shell, name):
    """The parent is killed; nobody is left to signal its child."""
    process = begun(sys.executable, "-c", PARENT, *shell, sys.executable, "-c", STEPS, **{name: "/somewhere"})
    time.sleep(1)  # until the child knows its parent
    process.kill()
    out, err = process.communicate(timeout=20)  # ends when the child has closed the pipes
    assert out.endswith("saved\n")
    assert "what started this stage has ended\nstopping after this step" in err


def test_a_stage_by_hand_outlives_its_parent():
    without = {key: value for key, value in ENV.items() if key != "DVC_ROOT"}
    words = [sys.executable, "-c", PARENT, sys.executable, "-c", STEPS.replace("range(600)", "range(20)")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=without)
    process.stdout.readline()
    process.kill()
    out, _ = process.communicate(timeout=20)
    assert re.search(r"^19$", out, re.MULTILINE)


@pytest.mark.parametrize("status", [0, 3])
def test_the_status_is_that_of_the_process(status):
    assert launch_stage([sys.executable, "-c", f"import sys; sys.exit({status})"]) == status


def test_a_process_that_was_interrupted_interrupts():
    with pytest.raises(KeyboardInterrupt):
        launch_stage([sys.executable, "-c", "import sys; sys.exit(130)"])


def test_a_process_that_is_killed():
    assert launch_stage([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) == -9


@pytest.mark.parametrize("both", [True, False], ids=["the terminal interrupts both", "a signal to this one alone"])
def test_an_interrupted_process_is_given_time(tmp_path, monkeypatch, both):
    """It is told, once more where the terminal did that already, and waited for."""
    program = f"""
import os, sys, time
from nanogpt.runtime import process
def main():
    with process.defer_signals() as stop:
        open("pid", "w").close()
        if {both}:
            os.kill(os.getppid(), 2)
            os.kill(os.getpid(), 2)
        while not stop.requested:
            time.sleep(0.01)
        time.sleep(0.5)
        open("kept", "w").close()
        raise KeyboardInterrupt
process.run_stage(main)
"""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def interrupt() -> None:
        while not Path("pid").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    if not both:
        threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        launch_stage([sys.executable, "-c", program])
    assert Path("kept").exists()


def test_what_is_launched_ends_with_its_parent():
    """Killed, a series of seeds leaves nobody who trains on, and whose result the next one would not know."""
    program = """
import sys, time
from nanogpt.runtime import process
def main():
    with process.defer_signals() as stop:
        print("begun", flush=True)
        while not stop.requested:
            time.sleep(0.01)
    print("saved", flush=True)
process.run_stage(main)
"""
    series = "import sys; from nanogpt.runtime.process import launch_stage\n"
    series += f"launch_stage([sys.executable, '-c', {program!r}])"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", series], env=env, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline() == "begun\n"
    time.sleep(1)  # until the child knows its parent
    process.kill()
    assert process.communicate(timeout=20)[0] == "saved\n"
