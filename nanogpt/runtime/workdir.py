"""Folders for work in progress, in `.work`: DVC does not track them, so they stay when a stage fails."""

import contextlib
import hashlib
import json
import os
import sys
import time
from pathlib import Path

from nanogpt.runtime import locks

RESUMABLE_STAGES = ("pretrain", "lora-finetune")
DONE = "done"  # file in the folder of a run whose outs are complete; holds the path of the dvc.lock to record it
TRAIN_LOG, VAL_LOG, SAMPLES_LOG = "train.csv", "val.csv", "samples.jsonl"  # files of a run that goes on
OLD_DAYS = 14
SHARDS_DAYS = 1


def work_root() -> Path:
    """Return `.work` of the repository, also if DVC runs an experiment in a copy of it (DVC_ROOT)."""
    return Path(os.environ.get("DVC_ROOT", ""), ".work")


def work_folder(kind: str, name: str, identity: dict) -> Path:
    """Return the folder `.work/<kind>/<name>-<digest of identity>`, created if missing; `identity` has JSON values.

    Raises OSError if it cannot be created.
    """
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    path = work_root() / kind / f"{name}-{digest}"
    path.mkdir(parents=True, exist_ok=True)
    return path


def read_logged_texts(folder: Path) -> list[dict]:
    """The texts in the log of a run, each with step, prompt and text; without lines that a crash left damaged."""
    samples = []
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / SAMPLES_LOG).read_text("utf-8", errors="replace").split("\n"):
            with contextlib.suppress(ValueError):
                samples.append(json.loads(line))
    return samples


def remove_committed_runs() -> None:
    """Delete the folders of runs whose dvc.lock was written after them, or is gone with the copy of an experiment."""
    for folder in run_folders():
        with contextlib.suppress(FileNotFoundError):  # not done, or dvc.lock is not written yet
            lock_file = Path((folder / DONE).read_text(encoding="utf-8", errors="replace"))
            if not lock_file.parent.exists() or (folder / DONE).stat().st_mtime < lock_file.stat().st_mtime:
                locks.remove_unless_held(folder)


def list_leftovers(days: float = 0) -> list[tuple[Path, int, float]]:
    """List folders of runs that no process holds or has written to for `days`: (path, bytes, age in days).

    Also shards of a text whose bins were never written, after SHARDS_DAYS at least, as no process holds them all.
    """
    found = []
    folders = dict.fromkeys(run_folders(), days)
    folders |= dict.fromkeys(sorted(work_root().glob("prepare/*")), max(days, SHARDS_DAYS))
    for folder, days in folders.items():
        with contextlib.suppress(FileNotFoundError):  # another process writes there, or deletes it
            files = [path.lstat() for path in folder.rglob("*")]
            age = (time.time() - max([folder.stat().st_mtime, *(file.st_mtime for file in files)])) / 86400
            if age >= days and not locks.is_held(folder):
                found.append((folder, sum(file.st_size for file in files), age))
    return found


def run_folders() -> list[Path]:
    """The folders of all runs in `.work`."""
    return sorted(folder for kind in RESUMABLE_STAGES for folder in work_root().glob(f"{kind}/*") if folder.is_dir())


def warn_of_old_runs() -> None:
    """Print to stderr how many MiB the runs hold that no process has written to for OLD_DAYS days."""
    if old := list_leftovers(OLD_DAYS):
        found = f"runs and shards of more than {OLD_DAYS} days ago, {sum(size for _, size, _ in old) / 2**20:,.0f} MiB"
        print(f".work holds {found}; `python -m stages.clean` lists and removes them", file=sys.stderr)
