"""Files and folders that appear complete in one rename, or not at all."""

import contextlib
import fcntl
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from nanogpt.runtime.checksums import write_checksums
from nanogpt.runtime.outputs import check_folder_kind


@contextlib.contextmanager
def replace_file(path: os.PathLike | str) -> Iterator[BinaryIO]:
    """Yield a file to write that takes the place of `path` when the block succeeds.

    A reader of `path` sees the old bytes or the new ones, never a part. The folder must exist. An error leaves the old.
    """
    path = Path(path)
    new, fd = _create_locked(path)
    try:
        with open(new, "wb", opener=lambda *_: fd) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def write_bytes(path: os.PathLike | str, data: bytes) -> None:
    """Write `data` to `path`, complete or not at all (see `replace_file`)."""
    with replace_file(path) as file:
        file.write(data)


def write_text(path: os.PathLike | str, text: str) -> None:
    """Write `text` to `path` in UTF-8, complete or not at all; line ends stay as they are."""
    write_bytes(path, text.encode())


@contextlib.contextmanager
def replace_folder(path: os.PathLike | str, marker: str) -> Iterator[Path]:
    """Yield an empty folder beside `path` that takes the place of `path` when the block succeeds.

    An older folder at `path` is replaced whole if it has a file `marker` (see `check_folder_kind`); it stays if the
    block raises. Creates missing parents, and SHA256SUMS of what the block wrote.
    """
    check_folder_kind(path, marker)
    path = Path(path).resolve()  # a link stays, and the block may change the working folder
    path.parent.mkdir(parents=True, exist_ok=True)
    old = path.with_name(f".{path.name}.replaced")
    if old.exists():  # left by a process that was killed while it replaced `path`
        shutil.rmtree(old) if path.exists() else old.rename(path)
    new, fd = _create_locked(path, folder=True)
    try:
        yield new
        write_checksums(new)
        _flush_to_disk(new)
        if path.exists():
            path.rename(old)
        new.rename(path)
    except BaseException as error:
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(new, ignore_errors=True)
        if os_error := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors' words for a full disk and the like
            number = int(os_error[1])
            raise OSError(number, os.strerror(number), str(path)) from None
        raise
    finally:
        os.close(fd)
    shutil.rmtree(old, ignore_errors=True)


def _create_locked(path: Path, folder: bool = False) -> tuple[Path, int]:
    """Create a temporary file or folder beside `path` and lock it; return it with its descriptor."""
    while True:
        new = _temporary_sibling(path)
        new.mkdir() if folder else new.touch(exist_ok=False)
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(new, os.O_RDONLY if folder else os.O_WRONLY)
            _lock(fd)
            if new.exists():
                return new, fd
            os.close(fd)  # before it was locked, another process took it for what a killed one had left


def _temporary_sibling(path: Path) -> Path:
    """Return a free name in the folder of `path`, so that the rename stays on one file system.

    Removes what killed processes left under such names: those files are locked by no process any more.
    """
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError):  # locked, or gone meanwhile
            fd = os.open(leftover, os.O_RDONLY)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            finally:
                os.close(fd)
    return Path(tempfile.mktemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))


def _lock(fd: int) -> None:
    """Lock what is being written; the kernel releases the lock when this process ends, however it ends."""
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(fd, fcntl.LOCK_EX)


def _flush_to_disk(root: Path) -> None:
    """Write every file below `root` through to the disk, so that a power cut leaves none empty after the rename."""
    for path in root.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
