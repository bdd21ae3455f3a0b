"""Lock a run's folder for one process at a time.

The kernel releases these locks (flock) when their holder ends, however it ends. The library filelock, while it waits,
creates the lock file again and again, also in a folder that its holder is just deleting.
"""

import contextlib
import errno
import fcntl
import functools
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from nanogpt.runtime.errors import UserError

WAIT_SECONDS = 60  # in which a run whose `dvc` was killed ends its step, saves and releases its lock
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)  # what a file system without locks answers


@contextlib.contextmanager
def hold_folder(folder: Path, wait_seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Lock `folder` in the block; the file `lock` in it says which process holds it, and since when.

    Raises UserError if another process still holds it after `wait_seconds`, or has deleted it meanwhile.
    """
    path = folder / "lock"
    ended = f"{folder}: the same training ran elsewhere and has just ended; its results are there"
    try:
        file = path.open("a+", encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise UserError(ended) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror}); delete it") from None
    with file:
        if not try_lock(file):
            print(f"waiting for {_read_holder(file)}, which runs the same training in {folder}", file=sys.stderr)
            if not try_lock(file, wait_seconds):
                raise UserError(f"{folder} is in use by {_read_holder(file)}; wait for it or stop it, and try again")
        if not (path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())):
            raise UserError(ended)
        with contextlib.suppress(OSError):  # a full disk: the lock holds without the text
            file.truncate(0)
            file.write(f"process {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}")
            file.flush()
        yield


def remove_unless_held(folder: Path) -> bool:
    """Delete the folder of a run unless a process holds it; return whether it is gone."""
    with contextlib.suppress(FileNotFoundError), (folder / "lock").open("a", encoding="utf-8") as file:
        if not try_lock(file):
            return False
        shutil.rmtree(folder)
    return True


def is_held(folder: Path) -> bool:
    """Return whether a process holds `folder` now."""
    with contextlib.suppress(OSError), (folder / "lock").open(encoding="utf-8") as file:
        return not try_lock(file)
    return False


def try_lock(file: TextIO, wait_seconds: float = 0) -> bool:
    """Acquire an exclusive lock on an open file until it is closed.

    Returns False if another process still holds it after `wait_seconds`. On a file system without locks it warns once
    on stderr and returns True.
    """
    end = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.1)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            _warn_of_no_locks()
            return True


@functools.cache
def _warn_of_no_locks() -> None:
    print("this file system has no locks: do not start the same training twice at once", file=sys.stderr)


def _read_holder(file: TextIO) -> str:
    file.seek(0)
    return file.read() or "another process"
