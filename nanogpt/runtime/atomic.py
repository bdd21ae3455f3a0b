"""Files and folders that appear complete in one rename, or not at all."""

import contextlib
import ctypes
import fcntl
import glob
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from nanogpt.runtime.checksums import write_checksums
from nanogpt.runtime.errors import UserError


@contextlib.contextmanager
def replace_file(path: os.PathLike | str) -> Iterator[BinaryIO]:
    """Yield a file to write that takes the place of `path` when the block succeeds.

    Whoever reads `path` sees the old bytes or the new, never a part. The folder must exist. Raises OSError
    as `open` and `write` do, and leaves the old file then.
    """
    path = Path(path)
    aside = _temporary_sibling(path)
    try:
        with aside.open("xb") as file:
            _lock(file.fileno())
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_bytes(path: os.PathLike | str, data: bytes) -> None:
    """Write `data` to `path` through `file`."""
    with replace_file(path) as aside:
        aside.write(data)


def write_text(path: os.PathLike | str, text: str) -> None:
    """Like `write_bytes`, for text in UTF-8 with its line ends as they are."""
    write_bytes(path, text.encode())


def check_writable(path: os.PathLike | str) -> None:
    """Raise UserError where nothing can be written at `path`, for its folder is a file, or not ours to write in."""
    path = Path(path).resolve()
    above = next((folder for folder in path.parents if folder.exists()), path)
    if not above.is_dir():
        raise UserError(f"{path}: {above} is a file and no folder; choose another name")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"{path}: {above} cannot be written to; choose another place")


def check_replaceable(path: os.PathLike | str, marker: str) -> None:
    """Raise UserError where the folder `path` cannot be, or would erase anything but an older folder of its kind.

    One of its kind has a file called `marker`.
    """
    check_writable(path)
    path = Path(path).resolve()
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file, and a folder is to be written; choose another name")
    holds = path.is_dir() and any(path.iterdir())
    if (holds and not (path / marker).is_file()) or Path.cwd().is_relative_to(path):
        raise UserError(f"{path} holds other things (no {marker}), and would be replaced whole; choose another name")


@contextlib.contextmanager
def replace_folder(path: os.PathLike | str, marker: str) -> Iterator[Path]:
    """Yield an empty folder beside `path` that takes the place of `path` when the block succeeds.

    A folder that was at `path` is replaced whole, if it is of the kind that has a file `marker` (see
    `check_out`); when the block raises, it stays as it was and the new one is removed. Missing parents
    are made, and SHA256SUMS of what the block wrote.
    """
    check_replaceable(path, marker)
    path = Path(path).resolve()  # a link stays, and the block may change the working folder
    path.parent.mkdir(parents=True, exist_ok=True)
    aside, old = _temporary_sibling(path), None
    aside.mkdir()
    held = os.open(aside, os.O_RDONLY)
    _lock(held)
    try:
        yield aside
        write_checksums(aside)
        _flush_to_disk(aside)
        if not path.exists():
            aside.rename(path)
        elif _exchange(aside, path):
            old = aside
        else:  # for an instant nothing lies at path: a folder cannot be renamed over one that holds files
            old = _temporary_sibling(path, ".old")
            path.rename(old)
            try:
                aside.rename(path)
            except BaseException:
                old.rename(path)
                raise
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        if of_system := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors' way to say that a disk is full
            number = int(of_system[1])
            raise OSError(number, os.strerror(number), str(path)) from None
        raise
    finally:
        os.close(held)
    if old:
        shutil.rmtree(old)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step where the system can: renameat2 of Linux, renamex_np of macOS."""
    names, libc, swap = (os.fsencode(one), os.fsencode(other)), ctypes.CDLL(None), 2
    if sys.platform == "linux" and hasattr(libc, "renameat2"):
        here = -100  # AT_FDCWD
        return libc.renameat2(here, names[0], here, names[1], swap) == 0
    return sys.platform == "darwin" and libc.renamex_np(*names, swap) == 0


def _temporary_sibling(path: Path, suffix: str = ".tmp") -> Path:
    """A free name in the same folder, so that the rename stays on one file system.

    What a process that was killed has left under such a name is removed first: nobody holds it any more.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError):  # held, or gone meanwhile
            fd = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            finally:
                os.close(fd)
    return Path(tempfile.mktemp(prefix=f".{path.name}.", suffix=suffix, dir=path.parent))


def _lock(fd: int) -> None:
    """Lock what is being written; the kernel lets go of it when this process ends, however it ends."""
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(fd, fcntl.LOCK_EX)


def _flush_to_disk(root: Path) -> None:
    """Bring every file below `root` to the disk, so that a power cut cannot leave an empty one behind the rename."""
    for path in root.rglob("*"):
        if path.is_file():
            with path.open("r+b") as file:  # Windows syncs only what is open for writing
                os.fsync(file.fileno())
