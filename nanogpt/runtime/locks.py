"""One process at a time in a folder. The kernel lets go of the lock when its holder ends, however it ends."""

import contextlib
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from nanogpt.runtime.errors import UserError

WAIT_SECONDS = 60  # in which a run whose `dvc` was killed ends its step, saves and lets go


@contextlib.contextmanager
def hold_folder(folder: Path, patience: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold `folder` in the block; the file `lock` in it says which process does, and since when.

    Raises UserError where another process still holds it after so many seconds.
    """
    with _opened(folder / "lock") as file:
        _wait_for_lock(file, time.monotonic() + patience, folder)
        if not _is_at(file, folder / "lock"):
            raise UserError(f"{folder}: the same training ran elsewhere and has just ended; its results are there")
        with contextlib.suppress(OSError):  # a full disk: the lock holds without the words
            file.truncate(0)
            file.write(f"process {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}")
            file.flush()
        yield


def remove_unless_held(folder: Path) -> bool:
    """Delete a run's folder unless some process holds it; whether it is deleted."""
    with contextlib.suppress(FileNotFoundError), (folder / "lock").open("a", encoding="utf-8") as file:
        if not try_lock(file):
            return False
        shutil.rmtree(folder)
    return True


def is_held(folder: Path) -> bool:
    """Whether some process holds `folder` now."""
    with contextlib.suppress(OSError), (folder / "lock").open(encoding="utf-8") as file:
        return not try_lock(file)
    return False


def _opened(path: Path) -> TextIO:
    try:
        return path.open("a+", encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror}); delete it") from None


def _is_at(file: TextIO, path: Path) -> bool:
    """Whether this open file is what lies there: who waited may hold one whose folder was removed."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _wait_for_lock(file: TextIO, end: float, folder: Path) -> None:
    waited = False
    while not try_lock(file):
        file.seek(0)
        holder = file.read() or "another process"
        if time.monotonic() > end:
            raise UserError(
                f"{folder} is in use by {holder}: the same training is running already; wait for it, or stop it, "
                "and run this again"
            )
        if not waited:
            print(f"waiting for {holder}, which runs the same training in {folder}", file=sys.stderr, flush=True)
            waited = True
        time.sleep(0.1)


def try_lock(file: TextIO) -> bool:
    """Take the kernel's lock of an open file, which is held until it is closed; False where another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
