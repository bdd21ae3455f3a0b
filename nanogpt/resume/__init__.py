"""Runs that outlive their process: `.work/<stage>/<name>-<fingerprint>` holds what the next one goes on from.

DVC deletes a stage's outs before it runs it and keeps nothing of one that failed, so states are saved beside its
outs. Who holds the folder's lock may write there. When the outs are complete the folder is `done`; it is removed
once DVC has written dvc.lock after that, for until then DVC may still fail and run the stage again.
"""

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from nanogpt import atomic, process, scratch
from nanogpt.errors import UserError
from nanogpt.resume import fingerprint, lock
from nanogpt.resume.every import Every, parse
from nanogpt.resume.lock import remove
from nanogpt.resume.states import KEPT, States, size

__all__ = ["KINDS", "Every", "Work", "leftovers", "parse", "remove", "size", "sweep", "work"]

KINDS = ("pretrain", "lora-finetune")
OLD_DAYS = 14
MADE_OF, DONE = "made-of.json", "done"


class Work:
    """One run's folder, held by this process.

    `every` says how often to save, `facts` goes into every state as it is, and `started` is when this process
    began (time.monotonic()). `state` is the newest whole one, None at the beginning and once it was taken up.
    """

    def __init__(self, folder: Path, every: Every, facts: dict, started: float):
        self.folder, self.every, self.facts, self.started = folder, every, facts, started
        self._states = States(folder)
        self.state = self._states.load()
        self._saved = time.monotonic()
        self._cost = 0.0

    def due(self, step: int) -> bool:
        """Whether it is time to save, `step` steps being done."""
        return self.every.due(step, time.monotonic() - self._saved, self._cost)

    def save(self, step: int, state: dict) -> None:
        """Save the state after `step` steps. Raises UserError where it cannot be written."""
        start = time.monotonic()
        self._states.save(step, self.facts | state)
        self._saved = time.monotonic()
        self._cost = self._saved - start

    def kept(self) -> str:
        """What is saved and where, for a message."""
        newest = self._states.newest()
        return f"the state after {newest[0]} steps is kept in {newest[1]}" if newest else "no state was saved yet"

    def check_space(self, state_bytes: int, out_bytes: int) -> None:
        """Raise UserError where the disk has no room for the states that a run keeps, and for what it writes then."""
        there = sum(path.lstat().st_size for path in self.folder.iterdir())
        needed, free = (KEPT + 1) * state_bytes + out_bytes - there, shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"{self.folder}: this run needs {needed / 2**20:,.0f} MiB for its saved states and its result, and the "
                f"disk has {free / 2**20:,.0f}; make room (`python -m stages.clean` lists what earlier runs left)"
            )


@contextlib.contextmanager
def work(stage: str, name: str, made_of: dict, every: int | str, facts: dict, started: float) -> Iterator[Work]:
    """Hold the folder of the run of `stage` that is made of `made_of` (JSON values), code and libraries.

    `every` is `train.checkpoint_every`; for the rest see Work. Where the block ends well, the run is done.
    Raises UserError where another process holds the folder, or the disk cannot be written, and under `dvc`, which would
    record the code as it is then, where that has changed meanwhile.
    """
    sweep()
    program = fingerprint.program()
    folder = _folder(stage, name, made_of | program)
    with lock.held(folder):
        (folder / DONE).unlink(missing_ok=True)
        _tell_old()
        run = Work(folder, parse(every), facts, started)
        try:
            yield run
        except KeyboardInterrupt:
            again = "`dvc repro`" if "DVC_ROOT" in os.environ else "the same command"
            raise KeyboardInterrupt(f"{run.kept()}; {again} goes on from there") from None
        if "DVC_ROOT" in os.environ:
            _check_unchanged(program["code"])
            process.last_checks()  # a stage that fails by them has more to do
            atomic.write_text(folder / DONE, str(Path("dvc.lock").resolve()))
        else:
            shutil.rmtree(folder)


def _check_unchanged(code: dict[str, str]) -> None:
    now = fingerprint.program()["code"]
    if changed := [name for name, sha256 in code.items() if now.get(name) != sha256]:
        raise UserError(
            f"{', '.join(changed)} changed while this stage ran, whose result is that of the code before; put it back, "
            "or leave it, and run `dvc repro` again"
        )


def sweep() -> None:
    """Remove the folders of runs that DVC has committed since they were done."""
    for folder in _folders():
        with contextlib.suppress(FileNotFoundError):
            if _is_committed(folder / DONE):
                remove(folder)


def _is_committed(done: Path) -> bool:
    """Whether the dvc.lock that a run was for was written after it, or is gone with an experiment's copy."""
    lock_file = Path(done.read_text(encoding="utf-8", errors="replace"))
    if not lock_file.parent.exists():
        return True
    return lock_file.exists() and done.stat().st_mtime < lock_file.stat().st_mtime


def leftovers(days: float) -> list[tuple[Path, int, float]]:
    """Folders of runs that nobody holds and nobody wrote to for so many days: place, bytes, age in days."""
    found = []
    for folder in _folders():
        with contextlib.suppress(FileNotFoundError):  # another process writes there, or removes it
            files = [path.lstat() for path in folder.iterdir()]
            age = (time.time() - max([folder.stat().st_mtime, *(file.st_mtime for file in files)])) / 86400
            if age >= days and not lock.is_held(folder):
                found.append((folder, sum(file.st_size for file in files), age))
    return found


def _folders() -> list[Path]:
    return sorted(folder for kind in KINDS for folder in scratch.root().glob(f"{kind}/*") if folder.is_dir())


def _tell_old() -> None:
    if old := leftovers(OLD_DAYS):
        mib = sum(size for _, size, _ in old) / 2**20
        print(
            f".work holds runs of more than {OLD_DAYS} days ago, {mib:,.0f} MiB; "
            "`python -m stages.clean` lists and removes them",
            file=sys.stderr,
        )


def _folder(stage: str, name: str, made_of: dict) -> Path:
    try:
        folder = scratch.folder(stage, name, made_of)
        if not (folder / MADE_OF).exists():
            _tell_others(folder, made_of)
            atomic.write_text(folder / MADE_OF, json.dumps(made_of, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        raise UserError(f"{scratch.root()}: cannot be written ({error.strerror}); make room there") from None
    return folder


def _tell_others(folder: Path, made_of: dict) -> None:
    """Say why the last unfinished run of the same name is not taken up: what is different."""
    others = [path for path in folder.parent.glob(f"{folder.name.rpartition('-')[0]}-*") if States(path).newest()]
    unfinished = [path for path in others if not (path / DONE).exists()]
    if unfinished:
        other = max(unfinished, key=lambda path: path.stat().st_mtime)
        with contextlib.suppress(OSError, ValueError, AttributeError):  # damaged
            was = json.loads((other / MADE_OF).read_text(encoding="utf-8"))
            differs = ", ".join(_differences(was, made_of)[:3])
            step, _ = States(other).newest()
            print(f"starting afresh: {other} is after {step} steps of another run ({differs})", file=sys.stderr)


def _differences(one: dict, other: dict, prefix: str = "") -> list[str]:
    found = []
    for key in sorted(one.keys() | other.keys()):
        a, b = one.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(prefix + key)
    return found
