"""Write and verify SHA256SUMS, the checksums of a folder's files in the format of `sha256sum --check`."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from nanogpt.runtime.errors import UserError

NAME = "SHA256SUMS"


def sha256(path: Path) -> str:
    """Return the hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(folder: Path) -> None:
    """Write SHA256SUMS of all files below `folder`, except hidden ones and README.md, which anyone may edit."""
    files = sorted(path for path in folder.rglob("[!.]*") if path.is_file() and path.name not in (NAME, "README.md"))
    lines = [f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / NAME).write_text("".join(lines), encoding="utf-8", newline="\n")


def read_checksums(folder: Path) -> dict[str, str]:
    """The hex digests in a folder's SHA256SUMS by file name, empty where it cannot be read."""
    try:
        lines = (folder / NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def verify_checksums(folder: Path | str, names: Iterable[str]) -> None:
    """Raise UserError if a file of `names` differs from its checksum in SHA256SUMS.

    Folders without SHA256SUMS, which come from elsewhere, and files that it does not list pass.
    """
    folder = Path(folder)
    sums = read_checksums(folder)
    for name in names:
        if name in sums and not ((folder / name).is_file() and sha256(folder / name) == sums[name]):
            raise UserError(
                f"{folder / name}: changed since it was written (its checksum in {NAME} differs); write the folder "
                f"again or restore it with `dvc checkout`, or delete {folder / NAME} if you changed it on purpose"
            )
