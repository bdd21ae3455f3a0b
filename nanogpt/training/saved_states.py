"""Saved states of a run: files written atomically, named by step and by the SHA-256 of their content."""

import re
import shutil
import sys
from pathlib import Path
from typing import BinaryIO

import torch
from torch.utils._pytree import tree_leaves

from nanogpt.runtime import atomic
from nanogpt.runtime.checksums import sha256
from nanogpt.runtime.errors import UserError

KEPT_STATES = 2
STATE_NAME = re.compile(r"step-(\d{9})-([0-9a-f]{64})\.pt")


class SavedStates:
    """The saved states in one folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def save(self, step: int, content: dict) -> Path:
        """Write the state after `step` steps, remove all but the last KEPT_STATES, and return its path.

        Raises UserError if it cannot be written; then the others stay.
        """
        temporary = self.folder / "state"
        try:
            with atomic.replace_file(temporary) as file:
                _write(content, file)
            path = self.folder / f"step-{step:09}-{sha256(temporary)}.pt"
            temporary.rename(path)
        except OSError as error:
            raise UserError(self._describe_failure(step, content, error)) from None
        kept = [path, *[old for n, old in self._found() if n < step][: KEPT_STATES - 1]]  # later ones are damaged
        for _, old in self._found():
            if old not in kept:
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        return path

    def load(self) -> dict | None:
        """Load the newest undamaged state, to the CPU; None if there is none.

        Raises UserError if one cannot be read now: it may be readable later, so the run must not start afresh.
        """
        for _, path in self._found():
            try:
                if sha256(path) == STATE_NAME.fullmatch(path.name)[2]:
                    return torch.load(path, map_location="cpu", weights_only=True)
            except OSError as error:
                raise UserError(
                    f"{path} cannot be read ({error.strerror}); run this again, or delete it to continue without it"
                ) from None
            print(f"{path} is damaged; the state before it is used, if there is one", file=sys.stderr)
        return None

    def newest(self) -> tuple[int, Path] | None:
        """Step and path of the newest state, damaged or not; None if there is none."""
        return next(iter(self._found()), None)

    def _found(self) -> list[tuple[int, Path]]:
        """Step and path of every state, newest first."""
        named = ((STATE_NAME.fullmatch(path.name), path) for path in self.folder.iterdir())
        return sorted(((int(match[1]), path) for match, path in named if match), reverse=True)

    def _describe_failure(self, step: int, content: dict, error: OSError) -> str:
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
    except RuntimeError as error:  # torch hides the cause: a full disk, an interruption
        raise error.__context__ or error from None


def tensor_bytes(content: object) -> int:
    """Sum the bytes of all tensors in nested dicts and lists."""
    return sum(leaf.nbytes for leaf in tree_leaves(content) if isinstance(leaf, torch.Tensor))
