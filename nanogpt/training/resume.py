"""Resumable training runs: `.work/<stage>/<name>-<fingerprint>` holds the states that the next process resumes from.

DVC deletes a stage's outs before it runs the stage, and after a failure, so states are saved outside of the outs. Only
the process that holds the folder's lock writes there. When the outs are complete the folder is marked as done. It is
removed once DVC has written dvc.lock after that: until then DVC may still fail and run the stage again.
"""

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from nanogpt.hardware import process_group
from nanogpt.runtime import atomic, locks, process
from nanogpt.runtime.errors import UserError
from nanogpt.runtime.fingerprint import fingerprint_program
from nanogpt.runtime.workdir import DONE, remove_committed_runs, warn_of_old_runs, work_folder, work_root
from nanogpt.training.run_log import RunLog
from nanogpt.training.run_record import RunRecord
from nanogpt.training.save_interval import SaveInterval, parse_interval
from nanogpt.training.saved_states import KEPT_STATES, SavedStates

INPUTS_FILE = "inputs.json"


class ResumableRun:
    """The folder of one run, locked by this process.

    `every` says how often to save, `content` is part of every state, and `started` is the time.monotonic() at which
    this process started. `state` is the newest undamaged one, or None if there is none or it has been restored. Of
    several processes the first one alone writes; `state` is the newest that any of them has on its machine.
    """

    def __init__(self, folder: Path, every: SaveInterval, content: dict, started: float):
        self.folder, self.every, self.content, self.started = folder, every, content, started
        self._states = SavedStates(folder)
        newest = self._states.newest()
        step, owner = process_group.greatest(newest[0] if newest else -1)
        self._writes = process_group.rank() == 0
        state = self._states.load() if process_group.rank() == owner else None
        self.state = process_group.broadcast(state, owner) if step >= 0 else None
        self._saved_at = time.monotonic()
        self._cost_s = 0.0

    def due(self, step: int) -> bool:
        """Whether to save now, after `step` steps."""
        return process_group.of_first(self.every.due(step, time.monotonic() - self._saved_at, self._cost_s))

    def save(self, step: int, state: dict) -> None:
        """Save the state after `step` steps. Raises UserError if it cannot be written."""
        if not self._writes:
            return
        start = time.monotonic()
        self._states.save(step, self.content | state)
        self._saved_at = time.monotonic()
        self._cost_s = self._saved_at - start

    def log(self, record: RunRecord, step_tokens: int, tensorboard: bool) -> RunLog | None:
        """Open the log of the run in its folder; None in all processes but the first."""
        return RunLog(self.folder, record, step_tokens, tensorboard) if self._writes else None

    def describe_saved(self) -> str:
        """Describe for a message which state is saved, and where."""
        newest = self._states.newest()
        return f"the state after {newest[0]} steps is kept in {newest[1]}" if newest else "no state was saved yet"

    def check_space(self, state_bytes: int, out_bytes: int) -> None:
        """Raise UserError if the disk is too small for the states that a run keeps and for its result."""
        if not self._writes:
            return
        present = sum(path.lstat().st_size for path in self.folder.iterdir())
        needed, free = (KEPT_STATES + 1) * state_bytes + out_bytes - present, shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"{self.folder}: this run needs {needed / 2**20:,.0f} MiB for its saved states and its result, and the "
                f"disk has {free / 2**20:,.0f}; make room (`python -m stages.clean` lists what earlier runs left)"
            )


@contextlib.contextmanager
def resumable_run(
    stage: str, name: str, inputs: dict, every: int | str, content: dict, started: float
) -> Iterator[ResumableRun]:
    """Lock the folder of the run of `stage` with these `inputs` (JSON values), code and libraries.

    `every` is `train.checkpoint_every`; for the rest see ResumableRun. If the block ends normally, the run is done.
    Raises UserError if another process holds the folder or the disk cannot be written, and if a process of the same run
    has other inputs or is lost. Under `dvc`, which would record the new code for a result of the old one, raises it
    also if the code has changed meanwhile.
    """
    first = process_group.rank() == 0
    if first:
        remove_committed_runs()
    program = fingerprint_program()
    if other := process_group.differing(inputs | program):
        differs = ", ".join(list(_differences(inputs | program, other))[:3]) or "nothing"
        raise UserError(f"the processes of this run differ in their inputs (here in {differs}); make them the same")
    folder = _open_run_folder(stage, name, inputs | program, first)
    with locks.hold_folder(folder) if first else contextlib.nullcontext():
        if first:
            (folder / DONE).unlink(missing_ok=True)
            warn_of_old_runs()
        run = ResumableRun(folder, parse_interval(every), content, started)
        again = "`dvc repro`" if "DVC_ROOT" in os.environ else "the same command"
        try:
            yield run
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{run.describe_saved()}; {again} resumes from there") from None
        except torch.OutOfMemoryError:
            small = "the GPU's memory is too small; choose a smaller batch_size, and train.grad_accum in its place"
            raise UserError(f"{small}: {run.describe_saved()}") from None
        except RuntimeError as error:
            if process_group.size() > 1 and process_group.is_lost_connection(error):
                lost = "another process of this run ended or does not answer"
                raise UserError(f"{lost}; {run.describe_saved()}; {again} resumes from there") from None
            raise
        if not first:
            return
        if "DVC_ROOT" in os.environ:
            _check_code_unchanged(program["code"])
            process.run_final_checks()  # before the run is marked as done
            atomic.write_text(folder / DONE, str(Path("dvc.lock").resolve()))
        else:
            shutil.rmtree(folder)


def _check_code_unchanged(code: dict[str, str]) -> None:
    now = fingerprint_program()["code"]
    if changed := [name for name, sha256 in code.items() if now.get(name) != sha256]:
        raise UserError(
            f"{', '.join(changed)} changed while this stage ran, and its result is from the code before; undo the "
            "change or keep it, and run `dvc repro` again"
        )


def _open_run_folder(stage: str, name: str, inputs: dict, first: bool) -> Path:
    """The folder of a run, with its inputs: the first process alone writes them, as others may share the folder."""
    try:
        folder = work_folder(stage, name, inputs)
        if first and not (folder / INPUTS_FILE).exists():
            _explain_fresh_start(folder, inputs)
            atomic.write_text(folder / INPUTS_FILE, json.dumps(inputs, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        raise UserError(
            f"{work_root()}: cannot be written ({error.strerror}); make room there, or correct its permissions"
        ) from None
    return folder


def _explain_fresh_start(folder: Path, inputs: dict) -> None:
    """Print why the last unfinished run of the same name is not resumed: which inputs differ."""
    earlier = folder.parent.glob(f"{folder.name.rpartition('-')[0]}-*")
    unfinished = [path for path in earlier if SavedStates(path).newest() and not (path / DONE).exists()]
    if unfinished:
        other = max(unfinished, key=lambda path: path.stat().st_mtime)
        with contextlib.suppress(OSError, ValueError, AttributeError):  # damaged
            was = json.loads((other / INPUTS_FILE).read_text(encoding="utf-8"))
            differs = ", ".join(list(_differences(was, inputs))[:3])
            step, _ = SavedStates(other).newest()
            print(f"starting afresh: {other} is after {step} steps of another run ({differs})", file=sys.stderr)


def _differences(one: dict, other: dict, prefix: str = "") -> Iterator[str]:
    for key in sorted(one.keys() | other.keys()):
        a, b = one.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield prefix + key
