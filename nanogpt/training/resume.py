"""Resumable training runs: `.work/<stage>/<name>-<fingerprint>` holds the states that the next process resumes from.

DVC deletes a stage's outs before it runs it and keeps nothing of one that failed, so states are saved beside its outs.
The process that holds the folder's lock may write there. When the outs are complete the folder is marked as done; it is
removed once DVC has written dvc.lock after that, for until then DVC may still fail and run the stage again.
"""

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from nanogpt.runtime import atomic, locks, process
from nanogpt.runtime.errors import UserError
from nanogpt.runtime.workdir import DONE, remove_committed_runs, warn_of_old_runs, work_folder, work_root
from nanogpt.training.fingerprint import fingerprint_program
from nanogpt.training.save_interval import SaveInterval, parse_interval
from nanogpt.training.saved_states import KEPT_STATES, SavedStates

INPUTS_FILE = "made-of.json"


class ResumableRun:
    """One run's folder, held by this process.

    `every` says how often to save, `facts` goes into every state as it is, and `started` is when this process
    began (time.monotonic()). `state` is the newest whole one, None at the beginning and once it was taken up.
    """

    def __init__(self, folder: Path, every: SaveInterval, facts: dict, started: float):
        self.folder, self.every, self.facts, self.started = folder, every, facts, started
        self._states = SavedStates(folder)
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
        needed, free = (KEPT_STATES + 1) * state_bytes + out_bytes - there, shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"{self.folder}: this run needs {needed / 2**20:,.0f} MiB for its saved states and its result, and the "
                f"disk has {free / 2**20:,.0f}; make room (`python -m stages.clean` lists what earlier runs left)"
            )


@contextlib.contextmanager
def resumable_run(
    stage: str, name: str, inputs: dict, every: int | str, facts: dict, started: float
) -> Iterator[ResumableRun]:
    """Hold the folder of the run of `stage` that is made of `inputs` (JSON values), code and libraries.

    `every` is `train.checkpoint_every`; for the rest see Work. Where the block ends well, the run is done.
    Raises UserError where another process holds the folder, or the disk cannot be written, and under `dvc`, which would
    record the code as it is then, where that has changed meanwhile.
    """
    remove_committed_runs()
    program = fingerprint_program()
    folder = _open_run_folder(stage, name, inputs | program)
    with locks.hold_folder(folder):
        (folder / DONE).unlink(missing_ok=True)
        warn_of_old_runs()
        run = ResumableRun(folder, parse_interval(every), facts, started)
        try:
            yield run
        except KeyboardInterrupt:
            again = "`dvc repro`" if "DVC_ROOT" in os.environ else "the same command"
            raise KeyboardInterrupt(f"{run.kept()}; {again} goes on from there") from None
        if "DVC_ROOT" in os.environ:
            _check_code_unchanged(program["code"])
            process.run_final_checks()  # a stage that fails by them has more to do
            atomic.write_text(folder / DONE, str(Path("dvc.lock").resolve()))
        else:
            shutil.rmtree(folder)


def _check_code_unchanged(code: dict[str, str]) -> None:
    now = fingerprint_program()["code"]
    if changed := [name for name, sha256 in code.items() if now.get(name) != sha256]:
        raise UserError(
            f"{', '.join(changed)} changed while this stage ran, whose result is that of the code before; put it back, "
            "or leave it, and run `dvc repro` again"
        )


def _open_run_folder(stage: str, name: str, inputs: dict) -> Path:
    try:
        folder = work_folder(stage, name, inputs)
        if not (folder / INPUTS_FILE).exists():
            _explain_fresh_start(folder, inputs)
            atomic.write_text(folder / INPUTS_FILE, json.dumps(inputs, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        raise UserError(f"{work_root()}: cannot be written ({error.strerror}); make room there") from None
    return folder


def _explain_fresh_start(folder: Path, inputs: dict) -> None:
    """Say why the last unfinished run of the same name is not taken up: what is different."""
    others = [path for path in folder.parent.glob(f"{folder.name.rpartition('-')[0]}-*") if SavedStates(path).newest()]
    unfinished = [path for path in others if not (path / DONE).exists()]
    if unfinished:
        other = max(unfinished, key=lambda path: path.stat().st_mtime)
        with contextlib.suppress(OSError, ValueError, AttributeError):  # damaged
            was = json.loads((other / INPUTS_FILE).read_text(encoding="utf-8"))
            differs = ", ".join(_differences(was, inputs)[:3])
            step, _ = SavedStates(other).newest()
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
