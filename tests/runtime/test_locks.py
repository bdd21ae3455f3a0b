"""One process at a time in a run's folder, by real processes that end in all ways."""

import errno
import os
import shutil
import subprocess
import sys
import threading

import pytest

from nanogpt.runtime import locks
from nanogpt.runtime.errors import UserError


def test_one_run_at_a_time(tmp_path, capsys):
    with locks.hold_folder(tmp_path):
        assert locks.is_held(tmp_path)
        with (
            pytest.raises(UserError, match=rf"is in use by process {os.getpid()}, since \d{{4}}-"),
            locks.hold_folder(tmp_path, 0.3),
        ):
            raise AssertionError("two at once")
    assert capsys.readouterr().err.count("waiting for process") == 1
    assert not locks.is_held(tmp_path)
    with locks.hold_folder(tmp_path, 0):
        pass


HOLDER = "import sys, time; from pathlib import Path; from nanogpt.runtime import locks\n" + (
    "with locks.hold_folder(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(float(sys.argv[2]))"
)


def holder(folder, seconds) -> subprocess.Popen:
    words = [sys.executable, "-c", HOLDER, str(folder), str(seconds)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_that_was_removed_is_held_by_nobody(tmp_path):
    """One waits for it, and meanwhile it is removed and made anew, and held by another."""
    folder = tmp_path / "run"
    folder.mkdir()
    first = holder(folder, 60)
    words = [sys.executable, "-c", HOLDER, str(folder), "0"]
    waits = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert "waiting for process" in waits.stderr.readline()
    shutil.rmtree(folder)
    folder.mkdir()
    with locks.hold_folder(folder):
        first.kill()
        assert "the same training ran elsewhere and has just ended" in waits.communicate(timeout=20)[1]
    first.wait()


def test_the_lock_of_a_process_that_ends_is_free(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    process = holder(folder, 60)
    with pytest.raises(UserError, match=f"in use by process {process.pid}"), locks.hold_folder(folder, 0):
        pass
    assert not locks.remove_unless_held(folder) and folder.exists()
    threading.Timer(0.3, process.kill).start()
    with locks.hold_folder(folder, 30):
        assert str(os.getpid()) in (folder / "lock").read_text()
    process.wait()
    assert locks.remove_unless_held(folder) and not folder.exists()
    assert locks.remove_unless_held(folder)  # gone already


def test_a_file_system_without_locks_is_warned_of_once(tmp_path, monkeypatch, capsys):
    code = errno.ENOLCK

    def refuse(*_):
        raise OSError(code, "no locks here")

    locks._warn_of_no_locks.cache_clear()
    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    for _ in range(2):
        with locks.hold_folder(tmp_path, 0):
            assert locks.remove_unless_held(tmp_path / "gone")
    assert capsys.readouterr().err.count("no locks") == 1
    code = errno.EIO
    with pytest.raises(OSError, match="no locks here"), locks.hold_folder(tmp_path, 0):
        pass
