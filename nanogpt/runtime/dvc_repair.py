"""Repair files of DVC that a kill can leave half written, as DVC writes them in place: until then no `dvc` runs."""

import contextlib
import json
import subprocess
from pathlib import Path

from nanogpt.runtime import atomic, locks
from nanogpt.runtime.errors import UserError

TMP, RUN_CACHE = Path(".dvc/tmp"), Path(".dvc/cache/runs")
RWLOCK, LOCK_FILE = TMP / "rwlock", Path("dvc.lock")
WAIT_SECONDS = 3  # for a dvc that writes; DVC itself waits as long


def repair() -> list[str]:
    """Repair what is damaged in the project in the current folder; return one line for each repair.

    No result is lost: what is not in the last commit's dvc.lock, DVC restores from its run cache. Raises UserError
    while a `dvc` works on these files, and for a dvc.lock with a merge conflict of git in it.
    """
    if not TMP.is_dir():
        return []
    done = []
    with contextlib.ExitStack() as stack:
        for path in (TMP / "rwlock.lock", TMP / "lock"):  # kernel locks, both held by a DVC that writes these files
            file = stack.enter_context(path.open("a", encoding="utf-8"))
            if not locks.try_lock(file, WAIT_SECONDS):
                raise UserError(f"{path}: a dvc is at work here; run this again when it has ended")
        try:
            json.loads(RWLOCK.read_bytes() if RWLOCK.exists() else "{}")
        except ValueError:
            RWLOCK.unlink()
            done.append(f"{RWLOCK} was damaged: removed")
        if LOCK_FILE.exists() and not _is_lock_file(LOCK_FILE):
            done.append(f"{LOCK_FILE} was damaged: {_restore(LOCK_FILE)}")
        for folder in [path for path in RUN_CACHE.glob("*/*") if path.is_dir() and not any(path.iterdir())]:
            folder.rmdir()
            done.append(f"{folder} was empty: removed")
    return done


def _is_lock_file(path: Path) -> bool:
    """Return whether DVC can read it, asking DVC: half of a lock file can be valid YAML, but not of a lock's schema."""
    from dvc.dvcfile import Lockfile
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        Lockfile(Repo(), str(path)).load()
    except DvcException:
        return False
    return True


def _restore(path: Path) -> str:
    """Rename the file, and restore the last commit's if there is one; return what was done."""
    if b"\n<<<<<<< " in path.read_bytes():
        raise UserError(f"{path} holds a merge conflict: settle it with `git checkout --ours {path}`, or --theirs")
    committed = subprocess.run(["git", "show", f"HEAD:./{path}"], capture_output=True)
    path.rename(f"{path}.damaged")
    if committed.returncode:
        return f"renamed to {path}.damaged"
    atomic.write_bytes(path, committed.stdout)
    return f"renamed to {path}.damaged, and that of the last commit restored"
