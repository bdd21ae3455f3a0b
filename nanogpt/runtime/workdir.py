"""Where work in progress lies: `.work`, beside DVC's outs, which outlives a stage that failed."""

import contextlib
import hashlib
import json
import os
import sys
import time
from pathlib import Path

from nanogpt.runtime import locks

RESUMABLE_STAGES = ("pretrain", "lora-finetune")  # stages whose runs are resumable
DONE = "done"  # file in the folder of a run whose outs are complete: the path of the dvc.lock that is to record it
OLD_DAYS = 14


def work_root() -> Path:
    """`.work` of the repository, also where DVC runs an experiment in a copy of it (DVC_ROOT)."""
    return Path(os.environ.get("DVC_ROOT", ""), ".work")


def work_folder(kind: str, name: str, identity: dict) -> Path:
    """The folder for what `identity` (JSON values) describes, made if missing: `.work/<kind>/<name>-<digest>`.

    Raises OSError where the disk cannot be written.
    """
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    path = work_root() / kind / f"{name}-{digest}"
    path.mkdir(parents=True, exist_ok=True)
    return path


def remove_committed_runs() -> None:
    """Remove the folders of runs that DVC has committed since they were done."""
    for folder in _run_folders():
        with contextlib.suppress(FileNotFoundError):
            if _is_committed(folder / DONE):
                locks.remove_unless_held(folder)


def _is_committed(done: Path) -> bool:
    """Whether the dvc.lock that a run was for was written after it, or is gone with an experiment's copy."""
    lock_file = Path(done.read_text(encoding="utf-8", errors="replace"))
    if not lock_file.parent.exists():
        return True
    return lock_file.exists() and done.stat().st_mtime < lock_file.stat().st_mtime


def list_leftovers(days: float) -> list[tuple[Path, int, float]]:
    """Folders of runs that nobody holds and nobody wrote to for so many days: place, bytes, age in days."""
    found = []
    for folder in _run_folders():
        with contextlib.suppress(FileNotFoundError):  # another process writes there, or removes it
            files = [path.lstat() for path in folder.iterdir()]
            age = (time.time() - max([folder.stat().st_mtime, *(file.st_mtime for file in files)])) / 86400
            if age >= days and not locks.is_held(folder):
                found.append((folder, sum(file.st_size for file in files), age))
    return found


def _run_folders() -> list[Path]:
    return sorted(folder for kind in RESUMABLE_STAGES for folder in work_root().glob(f"{kind}/*") if folder.is_dir())


def warn_of_old_runs() -> None:
    """Say on stderr how much the runs hold that nobody has written to for OLD_DAYS days."""
    if old := list_leftovers(OLD_DAYS):
        mib = sum(size for _, size, _ in old) / 2**20
        print(
            f".work holds runs of more than {OLD_DAYS} days ago, {mib:,.0f} MiB; "
            "`python -m stages.clean` lists and removes them",
            file=sys.stderr,
        )
