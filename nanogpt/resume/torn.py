"""Files of DVC's own that a kill can tear, as DVC writes them in place: no `dvc` runs then until they are mended."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

from nanogpt import atomic
from nanogpt.errors import UserError
from nanogpt.resume import lock

TMP, RUNS = Path(".dvc/tmp"), Path(".dvc/cache/runs")
RWLOCK, LOCK_FILE = TMP / "rwlock", Path("dvc.lock")


def mend() -> list[str]:
    """Put right what is torn in the project in the current folder; what was done, a line each.

    Nothing is lost by it: what is not in the last commit's dvc.lock, DVC's run cache restores.
    Raises UserError while a `dvc` is at work on these files.
    """
    if not TMP.is_dir():
        return []
    done = []
    with _held(TMP / "rwlock.lock"), _held(TMP / "lock"):  # what DVC holds to write them, the kernel's locks too
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
def _held(path: Path) -> Iterator[None]:
    with path.open("a", encoding="utf-8") as file:
        if not lock.take(file):
            raise UserError(f"{path}: a dvc is at work here; run this again when it has ended")
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
    """Put back the last commit's, or remove it where there is none; which of them."""
    committed = subprocess.run(["git", "show", f"HEAD:./{path}"], capture_output=True)
    if committed.returncode:
        path.unlink()
        return "removed"
    atomic.write_bytes(path, committed.stdout)
    return "the last commit's is back"
