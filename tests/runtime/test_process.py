"""A stage's process under real signals, under a real parent that dies, and as a parent."""

import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest

from nanogpt.runtime.process import launch_stage

ENV = os.environ | {"PYTHONUNBUFFERED": "1"}
WAITS = """
import time
from nanogpt.runtime import process
def main():
    try:
        print("started")
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


@pytest.mark.parametrize(
    ("code", "status", "output", "message"),
    [
        ("print('work')", 0, "work\nafter\n", "$"),
        ("raise errors.UserError('no such file; make it')", 1, "", "error: no such file; make it\n$"),
        ("open('/dev/full', 'w').write('x' * 10**6)", 1, "", "error: No space left on device; put that right, .*\n$"),
        ("raise PermissionError(13, 'Permission denied', 'x')", 1, "", "error: x: Permission denied; .*\n$"),
        ("open('no/such/file')", 1, "", "Traceback"),  # a mistake of ours
        ("raise BrokenPipeError(32, 'Broken pipe')", 1, "", "Traceback"),  # of another pipe than stdout
        ("raise KeyboardInterrupt", 130, "", "interrupted: nothing half-done was kept; run the same command again\n$"),
    ],
)
def test_how_a_stage_ends(code, status, output, message):
    program = f"from nanogpt.runtime import errors, process\ndef main():\n    {code}\n"
    program += "process.run_stage(main)\nprint('after')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=ENV)
    assert (done.returncode, done.stdout) == (status, output)
    assert re.match(message, done.stderr)


@pytest.mark.parametrize("lines", [1, 100_000])  # fewer than Python holds back, and more
def test_a_stage_whose_output_nobody_reads_ends_silently(lines):
    code = f"from nanogpt.runtime import process\nprocess.run_stage(lambda: [print(n) for n in range({lines})])"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def start(*words: str, **env: str) -> subprocess.Popen:
    """A process that has printed its first line."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(words, **pipes, env=ENV | env, start_new_session=True)
    process.first = process.stdout.readline().strip()
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_interrupt(number):
    process = start(sys.executable, "-c", WAITS)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "tidied up\n")
    assert err == "interrupted: nothing half-done was kept; run the same command again\n"


def test_a_second_ctrl_c_does_not_wait_for_the_step():
    process = start(sys.executable, "-c", STEPS.replace("range(10)", "range(1000)"))
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline().startswith("stopping after this step")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=9)  # the step takes ten seconds
    assert process.returncode == 130
    assert "saved" not in out


def test_a_signal_waits_for_the_step_and_further_ones_but_ctrl_c_are_ignored():
    """In the midst of a long step, and when it is over: the system signals a stage, and again as its dvc has ended."""
    slow = STEPS.replace("range(10)", "range(100)")
    slow = slow.replace("raise Key", "import os; os.kill(os.getpid(), 15); raise Key")
    process = start(sys.executable, "-c", slow)
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130 and out.endswith("saved\n")
    assert err == "stopping after this step; Ctrl-C then stops at once\ninterrupted: step so and so is kept\n"


def test_a_terminal_that_is_closed(tmp_path):
    """All that is printed there fails from then on; the state is saved nevertheless."""
    saves = STEPS.replace('print("saved")', f'open({str(tmp_path / "saved")!r}, "w").write("saved")')
    saves = "import sys\n" + saves.replace("print(step)", "print(step, file=sys.stderr, flush=True)")
    pid, terminal = pty.fork()
    if not pid:
        os.execve(sys.executable, [sys.executable, "-c", saves], ENV)
    assert os.read(terminal, 1) == b"0"
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    assert (tmp_path / "saved").read_text() == "saved"


def test_a_hangup_that_is_ignored_stays_ignored():
    """As under nohup: a run outlives its terminal."""
    process = start("sh", "-c", 'trap "" HUP; exec "$0" -c "$1"', sys.executable, STEPS)
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

LAUNCHER = f"from nanogpt.runtime.process import launch_stage\nlaunch_stage([{sys.executable!r}, '-c', {STEPS!r}])"
SHELL = ["-c", PARENT, "sh", "-c", '"$0" "$@"; true', sys.executable, "-c", STEPS]


@pytest.mark.parametrize(("words", "env"), [(SHELL, {"DVC_ROOT": "/x"}), (["-c", LAUNCHER], {})], ids=["dvc", "seeds"])
def test_a_stage_ends_when_its_parent_is_killed(words, env):
    """Started by dvc through a shell, or launched by a series of seeds."""
    process = start(sys.executable, *words, **env)
    while process.stdout.readline() != "3\n":  # the child runs, and knows its parent
        pass
    process.kill()
    out, err = process.communicate(timeout=20)  # ends when the child has closed the pipes
    assert out.endswith("saved\n")
    assert "the process that started this stage has ended\nstopping after this step" in err


def test_a_stage_by_hand_outlives_its_parent():
    without = {key: value for key, value in ENV.items() if key != "DVC_ROOT"}
    words = [sys.executable, "-c", PARENT, sys.executable, "-c", STEPS.replace("range(600)", "range(9)")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=without)
    process.stdout.readline()
    process.kill()
    out, _ = process.communicate(timeout=20)
    assert re.search(r"^8$", out, re.MULTILINE)


def test_the_status_of_a_launched_stage():
    for code, status in (("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", -9)):
        assert launch_stage([sys.executable, "-c", f"import os, sys; {code}"]) == status
    with pytest.raises(KeyboardInterrupt):
        launch_stage([sys.executable, "-c", "import sys; sys.exit(130)"])


def test_an_interrupted_launcher_tells_its_stage_and_waits_for_it(tmp_path):
    stage = STEPS.replace('print("saved")', f'time.sleep(0.5); open({str(tmp_path / "saved")!r}, "w")')
    process = start(sys.executable, "-c", LAUNCHER.replace(repr(STEPS), repr(stage)))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert (tmp_path / "saved").exists()
