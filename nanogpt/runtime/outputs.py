"""Checks where a command may write: over what this project wrote there before, and never over its own input."""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from nanogpt.runtime.checksums import NAME, read_checksums, sha256
from nanogpt.runtime.errors import UserError


def check_outputs(
    outputs: Mapping[Path | str, str | None], inputs: Iterable[Path | str] = (), overwrite: bool = False
) -> None:
    """Raise UserError where a command may not write one of its outputs; nothing on the disk changes.

    `outputs` maps a folder to its marker, the file that every folder of its kind holds (config.json, manifest.json,
    adapter_config.json), and a single file to None. New paths and empty folders pass. With `overwrite` a file passes,
    and a folder that holds its marker and, besides the other outputs and README.md, exactly what its SHA256SUMS says.
    An output that is one of `inputs` or contains one never passes, links resolved.
    """
    files = {Path(os.path.realpath(path)) for path, marker in outputs.items() if marker is None}
    for path, marker in outputs.items():
        with _explain_os_error(path):
            place = Path(path).resolve()
            for source in inputs:
                if Path(source).resolve().is_relative_to(place):
                    raise UserError(f"{path} holds {source}, which this command reads; choose another name")
            if marker:
                check_folder_kind(path, marker)
                if place.is_dir() and (stray := _find_stray_file(place, files)):
                    raise UserError(
                        f"{path} is not as this project wrote it: {stray} was added, changed or removed, and would be "
                        f"lost; choose another name, or delete {path} yourself"
                    )
            else:
                check_writable(path)
                if place.exists() and not place.is_file():
                    raise UserError(f"{path} is not a regular file; choose another name")
            if not overwrite and (place.is_file() or (place.is_dir() and any(place.iterdir()))):
                raise UserError(f"{path} exists; add --overwrite to replace it, or choose another name")


def check_writable(path: Path | str) -> None:
    """Raise UserError where nothing can be created at `path`, tried with a temporary folder beside it."""
    with _explain_os_error(path):
        place = Path(path).resolve()
        folder, names = place.parent, [place.name]
        while not folder.exists():
            folder, names = folder.parent, [*names, folder.name]
        if not folder.is_dir():
            raise UserError(f"{path}: {folder} is a file, not a folder; choose another name")
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                os.stat(folder / name)  # raises OSError where it is too long, or a link that leads to itself
        with tempfile.TemporaryDirectory(prefix=".output.", suffix=".tmp", dir=folder):
            pass


def check_folder_kind(path: Path | str, marker: str) -> None:
    """Raise UserError where a folder of this kind may not be put at `path`.

    That is where nothing can be created, where a file is, and where a folder is that contains the working folder or
    that holds files but no `marker`.
    """
    check_writable(path)
    place = Path(path).resolve()
    if place.exists() and not place.is_dir():
        raise UserError(f"{path} is a file, and a folder is to be written; choose another name")
    if Path.cwd().is_relative_to(place):
        raise UserError(f"{path} contains the working folder, and would be replaced whole; choose another name")
    if place.is_dir() and any(place.iterdir()) and not (place / marker).is_file():
        raise UserError(f"{path} holds other things (no {marker}), and would be replaced whole; choose another name")


def training_files(folder: Path | str, stage: str) -> dict[Path | str, None]:
    """The metrics and curves that a training stage writes to `folder`, as outputs for `check_outputs`."""
    return dict.fromkeys(Path(folder, f"{stage}{end}") for end in (".json", "-machine.json", "-train.csv", "-val.csv"))


def _find_stray_file(folder: Path, known: set[Path]) -> str | None:
    """The first name below `folder` that is not as SHA256SUMS says; files of `known` and README.md do not count."""
    present = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir() or not any(path.iterdir())
    }
    sums = read_checksums(folder)
    for name in sorted(present.keys() | sums.keys()):
        path = folder / name
        written = name in present and path.is_file() and sha256(path) == sums.get(name)
        if not written and name not in (NAME, "README.md") and path not in known:
            return name
    return None


@contextlib.contextmanager
def _explain_os_error(path: Path | str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError: a link that leads to itself, before Python 3.13
        reason = getattr(error, "strerror", error)
        raise UserError(f"{path} cannot be written: {reason}; choose another place") from None
