"""`stages.watch` in a terminal beside a real training run."""

import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest
from imports import ROOT
from loopback import wait_until
from small_project import Project

SETTINGS = {
    "model.n_layer": 1, "model.n_head": 2, "model.n_embd": 16, "model.block_size": 16, "train.batch_size": 4,
    "train.log_every": 1, "train.sample_every": 20, "train.threads": 1, "train.compile": "off",
}  # fmt: skip
TRAINING = ["pretrain", "--max-steps", "100000", "--out", "models/long"]


def start(*words: str, **options) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    return subprocess.Popen([sys.executable, "-m", f"stages.{words[0]}", *words[1:]], env=environment, **options)


@pytest.mark.slow
def test_a_run_is_watched_until_ctrl_c(project):
    Project(project).set(**SETTINGS)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    training = start(*TRAINING, **quiet)
    screen, terminal = pty.openpty()
    watching = start("watch", stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    os.set_blocking(screen, False)
    shown = bytearray()

    def seen(pattern: str) -> bool:
        try:
            shown.extend(os.read(screen, 1 << 16))
        except (BlockingIOError, OSError):
            time.sleep(0.01)
        return re.search(pattern, shown.decode(errors="replace"), re.DOTALL) is not None

    try:
        pattern = r"pretrain, running.*step (\d+) of 100,000, loss .*tokens/s.*left.*MiB.*after \d+ steps: "
        wait_until(lambda: seen(pattern), 60)
        shown.clear()
        wait_until(lambda: seen(pattern), 60)
        watching.send_signal(signal.SIGINT)
        wait_until(lambda: seen(r"\x1b\[\?1049l.*pretrain, running") and watching.poll() is not None, 20)
        assert watching.returncode == 0 and training.poll() is None
    finally:
        watching.kill()
        training.send_signal(signal.SIGINT)
        training.wait(60)
    once = start("watch", stdout=subprocess.PIPE, text=True)
    assert (
        "pretrain, stopped; the same command resumes it (.work/" in once.communicate(timeout=60)[0]
        and once.returncode == 0
    )
