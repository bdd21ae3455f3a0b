"""The records of one file of your own text, read as a stream in bounded memory, faults among them.

A reader yields texts, and in the place of a record that cannot be used a `Bad` one: whoever reads
decides whether to stop there. A fault of the whole file (damage, another encoding, no such column)
raises UserError.
"""

import codecs
import csv
import io
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from nanogpt.runtime.errors import UserError, shorten

if TYPE_CHECKING:
    import pyarrow.parquet

MARKER = "<|endoftext|>"
LONGEST = 32 * 2**20  # bytes of one record: what an open quote or a missing newline can cost in memory
BUFFER = CHUNK = 2**20
ROWS = 16  # of Parquet at once, each perhaps as long as the longest
LONGEST_CSV_FIELD = 2**31 - 1  # the csv module's own limit is 128 KiB; a C long has 32 bits on Windows
PACKED = {".gz": "gzip", ".zst": "zstd"}
MARKS = {  # those of UTF-32 first: one of them begins with one of UTF-16
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
CHOOSE = "set data.<role>.field in params.yaml to the field that holds the text"


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that cannot be used: the kind of fault in a few words; what, where, and what to do."""

    reason: str
    message: str


class _TooLong(Exception):
    pass


def is_readable(path: Path) -> bool:
    """Whether a file of this name can be read."""
    return _ending(path) is not None


def check_file(path: Path, field: str) -> None:
    """Open a file. Raises UserError for what that shows: unreadable, another encoding, no such column."""
    if READERS[_ending(path)] is _parquet:
        _open_parquet(path, field).close()
        return
    with _open(path) as file:
        if READERS[_ending(path)] is _csv:
            _header(path, _rows(path, file), field)


def read_texts(path: Path, field: str) -> Iterator[str | BadRecord]:
    """The texts of a file in their order; white space around them is left. Raises UserError for damage."""
    return READERS[_ending(path)](path, field)


def _ending(path: Path) -> str | None:
    return next((ending for ending in READERS if path.name.lower().endswith(ending)), None)


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    """A file's bytes, unpacked, without a byte order mark of UTF-8.

    Raises UserError, here and while they are read, where the file is unreadable or damaged.
    """
    try:
        with path.open("rb", BUFFER) as file:
            if codec := PACKED.get(path.suffix.lower()):
                import pyarrow  # slow to import, and few corpora need it

                if not file.peek(1):
                    raise OSError("it is empty")
                file = io.BufferedReader(pyarrow.CompressedInputStream(file, codec), BUFFER)
            head = file.peek(4)
            for mark, kind in MARKS.items():
                if head.startswith(mark):
                    raise UserError(f"{path}: {kind}, not UTF-8; convert it: iconv -f {kind} -t UTF-8 old > new")
            if head.startswith(codecs.BOM_UTF8):
                file.read(3)
            yield file
    except OSError as error:
        raise _unreadable(path, error) from None


def _lines(file: BinaryIO) -> Iterator[bytes | None]:
    """The lines with their ends, None in place of one of more than LONGEST bytes."""
    while line := file.readline(LONGEST + 1):
        yield line if len(line) <= LONGEST else None
        while len(line) > LONGEST and not line.endswith(b"\n"):
            line = file.readline(LONGEST + 1)


def _txt(path: Path, field: str) -> Iterator[str | BadRecord]:
    with _open(path) as file:
        *_, marked = next(_split(file, MARKER))
    with _open(path) as file:
        for number, content, ended in _split(file, MARKER if marked else ""):
            if content is None:
                yield _too_long(f"{path}, line {number}", f"divide the text by blank lines, or by lines {MARKER}")
                continue
            text = _decoded(path, number, content)
            if isinstance(text, BadRecord):
                yield text
            # White space between two markers is a blank document; at the file's ends it is none.
            elif text.strip() or (marked and ended and number > 1):
                yield text.replace("\r\n", "\n") if "\r" in text else text  # the question alone is ten times faster


def _split(file: BinaryIO, end: str) -> Iterator[tuple[int, bytes | bytearray | None, bool]]:
    """The text between lines that are `end` and white space: its first line, its bytes, whether `end` follows.

    None stands in place of more than LONGEST bytes.
    """
    word = end.encode()
    spaces = rb"[^\n!-~]*+"  # and more: any byte beyond ASCII, so what is found is looked at again
    line_end = re.compile(rb"\n" + spaces + (re.escape(word) + spaces if end else b"") + rb"(?=\n)")
    buffer, seen = bytearray(b"\n"), 0  # each line as a newline and what follows it; where the last one begins
    number, long = 1, 0  # the line where the text in buffer begins; where one began that was too long to keep
    more = b"\n"
    while more:
        more = file.read(CHUNK)
        buffer += more or b"\n"
        start = 0
        if b"\n" in (more or b"\n"):
            for match in line_end.finditer(buffer, seen) if buffer.find(word, seen) >= 0 else ():
                if match[0].decode(errors="replace").strip() == end:
                    fits = not long and match.start() - start - 1 <= LONGEST
                    yield long or number, buffer[start + 1 : match.start()] if fits else None, True
                    number += buffer.count(b"\n", start, match.end())
                    start, long = match.end(), 0
            seen = buffer.rfind(b"\n")
        if len(buffer) - start > LONGEST + CHUNK:
            long = long or number
            number += buffer.count(b"\n", start, seen)
            start = seen  # this line may yet become an end
            del buffer[start + CHUNK :]
        del buffer[:start]
        seen -= start
    fits = not long and len(buffer) - 2 <= LONGEST
    yield long or number, buffer[1:-1] if fits else None, False


def _jsonl(path: Path, field: str) -> Iterator[str | BadRecord]:
    with _open(path) as file:
        for number, line in enumerate(_lines(file), 1):
            text = _json_text(path, number, line, field)
            if text is not None:
                yield text


def _json_text(path: Path, number: int, line: bytes | None, field: str) -> str | BadRecord | None:
    """The text of one line, None for an empty one."""
    where = f"{path}, line {number}"
    if line is None:
        return _too_long(where, "divide the text into several records")
    content = _decoded(path, number, line)
    if isinstance(content, BadRecord):
        return content
    if not content.strip():
        return None
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        return BadRecord(
            "not valid JSON", f"{where}: not valid JSON ({error}); a .jsonl file has one JSON object a line"
        )
    if not isinstance(record, dict):
        example = json.dumps({field: "the text"}, ensure_ascii=False)
        return BadRecord(
            "not a JSON object", f"{where}: not a JSON object but {shorten(content, 40)}; write it as {example}"
        )
    if field not in record:
        return BadRecord("no such field", _no_field(where, field, list(record)))
    text = record[field]
    if not isinstance(text, str):
        return BadRecord(
            "not text", f"{where}: the field {field!r} is not text but {shorten(json.dumps(text), 40)}; {CHOOSE}"
        )
    if not _encodes(text):
        return BadRecord(
            "half a surrogate pair",
            f"{where}: the field {field!r} has half of a surrogate pair (\\ud800 to \\udfff); repair it",
        )
    return text


def _csv(path: Path, field: str) -> Iterator[str | BadRecord]:
    with _open(path) as file:
        rows = _rows(path, file)
        column, width = _header(path, rows, field)
        for row in rows:
            if isinstance(row, BadRecord):
                yield row
                continue
            number, fields = row
            where = f"{path}, line {number}: {len(fields)} fields"
            if len(fields) <= column:
                yield BadRecord("too few fields", f"{where}, so {field!r} is missing; repair the row")
            elif any(fields[width:]):
                yield BadRecord(
                    "too many fields", f"{where}, the header has {width}; put quotes around text with commas"
                )
            else:
                yield fields[column]


def _header(path: Path, rows: Iterator[tuple[int, list[str]] | BadRecord], field: str) -> tuple[int, int]:
    """Which column has the text, of how many."""
    row = next(rows, (1, []))
    if isinstance(row, BadRecord):
        raise UserError(row.message)
    number, fields = row
    if field not in fields:
        raise UserError(_no_field(f"{path}, line {number}", field, fields))
    return fields.index(field), len(fields)


def _rows(path: Path, file: BinaryIO) -> Iterator[tuple[int, list[str]] | BadRecord]:
    """The rows that are not empty, each with its first line.

    Where a row goes wrong its first line alone is bad and the next is read as a new row: an open quote
    costs one line, not all up to the next quote.
    """
    csv.field_size_limit(LONGEST_CSV_FIELD)
    lines = _lines(file)
    number, taken = 1, []  # of the row that is being read: its first line's number, its lines
    again: deque[bytes | None] = deque()

    def take() -> Iterator[str]:
        size = 0
        while (line := again.popleft() if again else next(lines, b"")) != b"":
            size = len(line or b"") + (size if taken else 0)
            taken.append(line)
            if line is None or size > LONGEST:
                raise _TooLong
            # Bytes that are no UTF-8 become halves of surrogate pairs, which no row has otherwise.
            text = line.decode(errors="surrogateescape")
            yield text[:-2] + "\n" if text.endswith("\r\n") else text

    while True:
        try:
            for row in csv.reader(take(), strict=True):  # strict: an open quote is an error, not one text to the end
                if not _encodes("".join(row)):
                    yield _decoded(path, number, b"".join(taken))
                elif row:
                    yield number, row
                number += len(taken)
                taken.clear()
            return
        except csv.Error as error:
            yield BadRecord("not valid CSV", f"{path}, line {number}: not valid CSV ({error}); check the quotes")
        except _TooLong:
            yield _too_long(f"{path}, line {number}", "divide the text, or close the quote that is open")
        again.extendleft(reversed(taken[1:]))
        number += 1
        taken.clear()


def _parquet(path: Path, field: str) -> Iterator[str | BadRecord]:
    import pyarrow

    with _open_parquet(path, field) as file:
        try:
            batches = file.iter_batches(ROWS, columns=[field], use_threads=False)
            column = (batch.column(0).cast(pyarrow.large_binary()).to_pylist() for batch in batches)
            for number, content in enumerate(chain.from_iterable(column), 1):
                yield _cell(f"{path}, row {number}: the field {field!r}", content)
        except (pyarrow.ArrowException, OSError) as error:
            raise _unreadable(path, error) from None


def _cell(where: str, content: bytes | None) -> str | BadRecord:
    if content is None:
        return BadRecord("not text", f"{where} is not text but null; {CHOOSE}")
    if len(content) > LONGEST:
        return _too_long(where, "divide the text into several rows")
    try:
        return content.decode()
    except UnicodeDecodeError:
        return BadRecord("not UTF-8", f"{where} is not valid UTF-8; write the file again from text in UTF-8")


def _open_parquet(path: Path, field: str) -> "pyarrow.parquet.ParquetFile":
    import pyarrow
    import pyarrow.parquet

    try:
        # A row group is often the whole file: with these it is read piece by piece.
        file = pyarrow.parquet.ParquetFile(path, buffer_size=CHUNK, pre_buffer=False)
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(path, error) from None
    schema = file.schema_arrow
    if field not in schema.names:
        raise UserError(_no_field(str(path), field, schema.names))
    kind = schema.field(field).type
    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    if kind not in (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()):
        raise UserError(f"{path}: the field {field!r} is not text but {kind}; {CHOOSE}")
    return file


def _unreadable(path: Path, error: Exception) -> UserError:
    if number := getattr(error, "errno", None):
        why = os.strerror(number)
        return UserError(f"{path}: cannot be read ({why}); check its permissions, and where it leads if it is a link")
    kind, why = path.suffix.lower().lstrip("."), str(error).partition("\n")[0]
    return UserError(f"{path}: damaged, cut off, or not a {kind} file ({why}); fetch or write it again")


def _no_field(where: str, field: str, fields: list[str]) -> str:
    there = ", ".join(map(repr, fields)) or "none"
    return f"{where}: no field {field!r}, the fields are: {there}; {CHOOSE}"


def _too_long(where: str, remedy: str) -> BadRecord:
    return BadRecord("too long", f"{where}: longer than {LONGEST // 2**20} MiB; {remedy}")


def _decoded(path: Path, number: int, content: bytes | bytearray) -> str | BadRecord:
    """Bytes that begin in this line of a file, as text."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        number += content.count(b"\n", 0, error.start)
        place = error.start - content.rfind(b"\n", 0, error.start)
        return BadRecord(
            "not UTF-8",
            f"{path}, line {number}, byte {place} of it: not valid UTF-8; convert the file, for example with "
            "iconv -f LATIN1 -t UTF-8 old > new",
        )


def _encodes(text: str) -> bool:
    """Whether it is free of halves of surrogate pairs."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


LINED = {".txt": _txt, ".jsonl": _jsonl, ".csv": _csv}
READERS: dict[str, Callable[[Path, str], Iterator[str | BadRecord]]] = {
    **{ending + packed: reader for packed in ("", *PACKED) for ending, reader in LINED.items()},
    ".parquet": _parquet,
}
