"""Files of DVC's own that a kill can tear, as DVC writes them in place: no `dvc` runs then until they are mended."""

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from nanogpt.runtime import atomic, locks
from nanogpt.runtime.errors import UserError

TMP, RUNS = Path(".dvc/tmp"), Path(".dvc/cache/runs")
RWLOCK, LOCK_FILE = TMP / "rwlock", Path("dvc.lock")
WAIT_SECONDS = 3  # for a dvc that writes, as DVC has itself


def repair() -> list[str]:
    """Put right what is torn in the project in the current folder; what was done, a line each.

    Nothing is lost by it: what is not in the last commit's dvc.lock, DVC's run cache restores.
    Raises UserError while a `dvc` is at work on these files, and for a dvc.lock with a conflict of git's in it.
    """
    if not TMP.is_dir():
        return []
    done = []
    with (
        _hold_lock_of_dvc(TMP / "rwlock.lock"),
        _hold_lock_of_dvc(TMP / "lock"),
    ):  # what DVC holds to write them, the kernel's locks too
        if RWLOCK.exists() and not _is_json(RWLOCK):
            RWLOCK.unlink()
            done.append(f"{RWLOCK} was torn: removed")
        if LOCK_FILE.exists() and not _is_lock_file(LOCK_FILE):
            done.append(f"{LOCK_FILE} was torn: {_restore(LOCK_FILE)}")
        for folder in [path for path in RUNS.glob("*/*") if path.is_dir() and not any(path.iterdir())]:
            folder.rmdir()
            done.append(f"{folder} was empty: removed")
    return done


@contextlib.contextmanager
def _hold_lock_of_dvc(path: Path) -> Iterator[None]:
    end = time.monotonic() + WAIT_SECONDS
    with path.open("a", encoding="utf-8") as file:
        while not locks.try_lock(file):
            if time.monotonic() > end:
                raise UserError(f"{path}: a dvc is at work here; run this again when it has ended")
            time.sleep(0.1)
        yield


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True


def _is_lock_file(path: Path) -> bool:
    """Whether DVC can read it, and by its own functions: half of YAML can be YAML, but not of a lock file's shape."""
    from dvc.dvcfile import Lockfile
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        Lockfile(Repo(), str(path)).load()
    except DvcException:
        return False
    return True


def _restore(path: Path) -> str:
    """Set it aside, and put back the last commit's where there is one; what was done."""
    if b"\n<<<<<<< " in path.read_bytes():
        raise UserError(f"{path} holds a conflict of git's: settle it with `git checkout --ours {path}`, or --theirs")
    committed = subprocess.run(["git", "show", f"HEAD:./{path}"], capture_output=True)
    path.rename(f"{path}.torn")
    if committed.returncode:
        return f"it is {path}.torn now"
    atomic.write_bytes(path, committed.stdout)
    return f"it is {path}.torn now, and the last commit's is back"
