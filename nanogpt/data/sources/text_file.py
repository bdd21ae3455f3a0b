"""Opens text files for reading, whole or in pieces, compressed or not."""

import codecs
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO

from nanogpt.runtime.errors import UserError

MARKER = "<|endoftext|>"
LONGEST = 32 * 2**20  # characters of one record: what an open quote or a missing newline can cost in memory
BUFFER = 2**20
PACKED = {".gz": "gzip", ".zst": "zstd"}
MARKS = {  # those of UTF-32 first: one of them begins with one of UTF-16
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


class Piece(NamedTuple):
    """A file, or the whole records of a .txt or .jsonl file from byte `start` to before byte `end`.

    `size` is in bytes; `separator` is what a line between two documents of a .txt file holds.
    """

    path: Path
    size: int
    start: int = 0
    end: int | None = None
    separator: str | None = None

    def __str__(self) -> str:
        return f"{self.path} from byte {self.start:,} on" if self.start else str(self.path)


def divide(path: Path, size: int) -> list[Piece]:
    """Divide a file into pieces of about `size` bytes; one that is compressed, or of another kind, is one piece."""
    whole = path.stat().st_size
    kind = ending(path)
    if whole <= size or kind not in (".txt", ".jsonl"):
        return [Piece(path, whole)]
    separator = find_separator(path) if kind == ".txt" else None
    cuts = [0]
    with path.open("rb", BUFFER) as file:
        while cuts[-1] + size < whole:
            file.seek(cuts[-1] + size)
            file.readline()
            while separator is not None and (line := file.readline()) and line.strip() != separator.encode():
                pass
            cuts.append(file.tell())
    cuts += [whole] if cuts[-1] < whole else []
    return [Piece(path, end - start, start, end, separator) for start, end in pairwise(cuts)]


def ending(path: Path) -> str:
    """The ending of a file's name, both of them where it is compressed, like ".jsonl.gz"."""
    return "".join(path.suffixes[-2:]).lower() if path.suffix.lower() in PACKED else path.suffix.lower()


class _Slice(io.RawIOBase):
    """The bytes of an open file from `start` to before `end`."""

    def __init__(self, file: BinaryIO, start: int, end: int):
        self._file, self._left = file, end - start
        file.seek(start)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        content = self._file.read(min(len(buffer), self._left))
        buffer[: len(content)] = content
        self._left -= len(content)
        return len(content)


@contextmanager
def open_text(source: Path | Piece) -> Iterator[TextIO]:
    """Open a file, decompressed and without a byte order mark; bytes that are not UTF-8 become half surrogate pairs.

    Raises UserError, here and while it is read, where the file is unreadable or damaged.
    """
    path, _, start, end, _ = source if isinstance(source, Piece) else Piece(source, 0)
    try:
        with path.open("rb", BUFFER) as file:
            if end is not None:
                file = io.BufferedReader(_Slice(file, start, end), BUFFER)
            if codec := PACKED.get(path.suffix.lower()):
                import pyarrow  # slow to import, and few corpora need it

                if not file.peek(1):
                    raise OSError("it is empty")
                file = io.BufferedReader(pyarrow.CompressedInputStream(file, codec), BUFFER)
            head = file.peek(4)
            for mark, kind in MARKS.items():
                if head.startswith(mark) and not start:
                    raise UserError(f"{path}: {kind}, not UTF-8; convert it: iconv -f {kind} -t UTF-8 old > new")
            yield io.TextIOWrapper(file, "utf-8" if start else "utf-8-sig", "surrogateescape", newline="\n")
    except OSError as error:
        raise unreadable(path, error) from None


def read_lines(file: TextIO) -> Iterator[str | None]:
    """The lines with their ends, None in place of one of more than LONGEST characters."""
    while line := file.readline(LONGEST + 1):
        yield line if len(line) <= LONGEST else None
        while len(line) > LONGEST and not line.endswith("\n"):
            line = file.readline(LONGEST + 1)


def find_separator(path: Path) -> str:
    """What a line between two documents holds: MARKER if any line of the file does, else nothing."""
    with open_text(path) as file:
        return MARKER if any(line and line.strip() == MARKER for line in read_lines(file)) else ""


def unreadable(path: Path, error: Exception) -> UserError:
    """What to say of a file where reading fails with `error`."""
    if number := getattr(error, "errno", None):
        why = os.strerror(number)
        return UserError(f"{path}: cannot be read ({why}); check its permissions, and where it leads if it is a link")
    kind, why = path.suffix.lower().lstrip("."), str(error).partition("\n")[0]
    return UserError(f"{path}: damaged, cut off, or not a {kind} file ({why}); fetch or write it again")
