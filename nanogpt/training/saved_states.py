"""Saved states of a run: files that appear whole, named by step and by the checksum of their content."""

import re
import shutil
import sys
from pathlib import Path
from typing import BinaryIO

import torch

from nanogpt.runtime import atomic
from nanogpt.runtime.checksums import sha256
from nanogpt.runtime.errors import UserError

KEPT_STATES = 2
STATE_NAME = re.compile(r"step-(\d{9})-([0-9a-f]{64})\.pt")


class SavedStates:
    """The states in one folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def save(self, step: int, content: dict) -> Path:
        """Write the state after `step` steps and drop all but the last KEPT ones; where it lies.

        Raises UserError where it cannot be written, and leaves the others as they are.
        """
        aside = self.folder / "state"
        try:
            with atomic.replace_file(aside) as file:
                _write(content, file)
            path = self.folder / f"step-{step:09}-{sha256(aside)}.pt"
            aside.rename(path)
        except OSError as error:
            raise UserError(self._unwritten(step, content, error)) from None
        kept = [
            path,
            *[old for n, old in self._found() if n < step][: KEPT_STATES - 1],
        ]  # later ones were passed over, damaged
        for _, old in self._found():
            if old not in kept:
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        return path

    def load(self) -> dict | None:
        """The newest state that is whole, on the CPU; None where there is none.

        Raises UserError where one cannot be read, which is no reason to begin anew.
        """
        for _, path in self._found():
            try:
                if sha256(path) == STATE_NAME.fullmatch(path.name)[2]:
                    return torch.load(path, map_location="cpu", weights_only=True)
            except OSError as error:
                raise UserError(
                    f"{path} cannot be read ({error.strerror}); run this again, or delete it to go on without it"
                ) from None
            print(f"{path} is damaged; the state before it is taken, if there is one", file=sys.stderr)
        return None

    def newest(self) -> tuple[int, Path] | None:
        """Step and place of the newest state, whole or not; None where there is none."""
        return next(iter(self._found()), None)

    def _found(self) -> list[tuple[int, Path]]:
        """Newest first."""
        named = ((STATE_NAME.fullmatch(path.name), path) for path in self.folder.iterdir())
        return sorted(((int(match[1]), path) for match, path in named if match), reverse=True)

    def _unwritten(self, step: int, content: dict, error: OSError) -> str:
        free = shutil.disk_usage(self.folder).free
        newest = self.newest()
        kept = f"the state after {newest[0]} steps is kept" if newest else "none was saved before"
        return (
            f"{self.folder}: the state after {step} steps ({tensor_bytes(content) / 2**20:,.0f} MiB) cannot be saved: "
            f"{error.strerror}, {free / 2**20:,.0f} MiB are free; {kept}; make room and run the same command again"
        )


def _write(content: dict, file: BinaryIO) -> None:
    try:
        torch.save(content, file)
    except RuntimeError as error:  # torch's writer hides what happened to the file: a full disk, an interruption
        raise error.__context__ or error from None


def tensor_bytes(content: object) -> int:
    """Bytes of all tensors in nested dicts and lists."""
    if isinstance(content, torch.Tensor):
        return content.nbytes
    items = content.values() if isinstance(content, dict) else content if isinstance(content, list | tuple) else ()
    return sum(map(tensor_bytes, items))
