"""Reads the records of one .txt, .jsonl, .csv or .parquet file as a stream, in bounded memory.

A reader yields the text of each record, or a `BadRecord` in the place of one that cannot be used: the
caller decides whether to stop there. A fault of the whole file (damage, another encoding, no such
column) raises UserError.
"""

import codecs
import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from nanogpt.runtime.errors import UserError, shorten

if TYPE_CHECKING:
    import pyarrow.parquet

MARKER = b"<|endoftext|>"
LONGEST = 32 * 2**20  # bytes of one record: what an open quote or a missing newline can cost in memory
BUFFER = CHUNK = 2**20
ROWS = 16  # of Parquet at once, each perhaps as long as the longest
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
    """A record that cannot be used.

    `reason` is the kind of fault in a few words, to count by; `message` says what is wrong, where, and what to do.
    """

    reason: str
    message: str


def is_readable(path: Path) -> bool:
    """Return whether files with the ending of `path` can be read."""
    return _ending(path) is not None


def check_file(path: Path, field: str) -> None:
    """Raise UserError for what opening a file shows: unreadable, another encoding, no such column."""
    if READERS[_ending(path)] is _parquet:
        _open_parquet(path, field).close()
        return
    with _open(path) as file:
        if READERS[_ending(path)] is _csv:
            _header(path, _rows(path, file), field)


def read_texts(path: Path, field: str) -> Iterator[str | BadRecord]:
    """Yield the records of a file in their order, without stripping white space. Raises UserError for damage."""
    return READERS[_ending(path)](path, field)


def _ending(path: Path) -> str | None:
    return next((ending for ending in READERS if path.name.lower().endswith(ending)), None)


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    """Open a file's bytes, decompressed and without a byte order mark.

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
        marked = any(_is_separator(line, MARKER) for line in _lines(file) if line and MARKER in line)
    with _open(path) as file:
        for number, content, is_last in _split(file, MARKER if marked else b""):
            if content is None:
                remedy = f"divide the text by blank lines, or by lines {MARKER.decode()}"
                yield _too_long(f"{path}, line {number}", remedy)
                continue
            text = _decode(path, number, content)
            if isinstance(text, BadRecord):
                yield text
            # White space between two markers is a blank document; at the file's ends it is none.
            elif text.strip() or (marked and number > 1 and not is_last):
                yield text.replace("\r\n", "\n")


def _split(file: BinaryIO, separator: bytes) -> Iterator[tuple[int, bytes | None, bool]]:
    """The text between lines that are `separator` and white space: its first line, its bytes, whether it is the last.

    None stands in place of more than LONGEST bytes.
    """
    first, size, content = 1, 0, bytearray()
    for number, line in enumerate(_lines(file), 1):
        if line and _is_separator(line, separator):
            yield first, bytes(content) if size <= LONGEST else None, False
            first, size, content = number + 1, 0, bytearray()
        else:
            size += len(line) if line else LONGEST + 1
            if size <= LONGEST:
                content += line
            else:
                content.clear()
    yield first, bytes(content) if size <= LONGEST else None, True


def _is_separator(line: bytes, separator: bytes) -> bool:
    stripped = line.strip()  # of white space in ASCII
    if stripped == separator or stripped.isascii():
        return stripped == separator
    return stripped.decode(errors="replace").strip().encode() == separator


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
    content = _decode(path, number, line)
    if isinstance(content, BadRecord):
        return content
    if not content.strip():
        return None
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        return _bad("not valid JSON", where, f" ({error}); a .jsonl file has one JSON object a line")
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
        reason = "half a surrogate pair"
        return BadRecord(reason, f"{where}: the field {field!r} has {reason} (\\ud800 to \\udfff); repair it")
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
                remedy = "put quotes around text with commas"
                yield BadRecord("too many fields", f"{where}, the header has {width}; {remedy}")
            else:
                yield fields[column]


def _header(path: Path, rows: Iterator[tuple[int, list[str]] | BadRecord], field: str) -> tuple[int, int]:
    """Read the header: the index of the column that has the text, and the number of columns."""
    row = next(rows, (1, []))
    if isinstance(row, BadRecord):
        raise UserError(row.message)
    number, fields = row
    if field not in fields:
        raise UserError(_no_field(f"{path}, line {number}", field, fields))
    return fields.index(field), len(fields)


def _rows(path: Path, file: BinaryIO) -> Iterator[tuple[int, list[str]] | BadRecord]:
    """The rows that are not empty, each with its first line.

    What is not valid CSV, like an open quote, is one bad record that takes the rest of the file with it,
    since nothing tells where the next row begins.
    """
    csv.field_size_limit(LONGEST)
    reader, number = csv.reader(_csv_lines(file), strict=True), 1
    try:
        for row in reader:
            if not _encodes("".join(row)):
                yield _not_utf8(f"{path}, line {number}")
            elif row:
                yield number, row
            number = reader.line_num + 1
    except csv.Error as error:
        message = f"{path}, line {number}: not valid CSV ({error}), so the rest of the file is unread; check the quotes"
        yield BadRecord("not valid CSV, rest of the file unread", message)


def _csv_lines(file: BinaryIO) -> Iterator[str]:
    for line in _lines(file):
        if line is None:
            raise csv.Error(f"longer than {LONGEST // 2**20} MiB")
        text = line.decode(errors="surrogateescape")  # no row has halves of surrogate pairs otherwise
        yield text[:-2] + "\n" if text.endswith("\r\n") else text


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


def _bad(reason: str, where: str, rest: str) -> BadRecord:
    return BadRecord(reason, f"{where}: {reason}{rest}")


def _too_long(where: str, remedy: str) -> BadRecord:
    return BadRecord("too long", f"{where}: longer than {LONGEST // 2**20} MiB; {remedy}")


def _not_utf8(where: str) -> BadRecord:
    return _bad("not UTF-8", where, "; convert the file, for example with iconv -f LATIN1 -t UTF-8 old > new")


def _decode(path: Path, number: int, content: bytes) -> str | BadRecord:
    """Bytes that begin in this line of a file, as text."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        newlines = content.count(b"\n", 0, error.start)
        return _not_utf8(f"{path}, line {number + newlines}")


def _encodes(text: str) -> bool:
    """Return whether UTF-8 can represent a text: it cannot for halves of surrogate pairs."""
    return text.isascii() or text.encode(errors="replace") == text.encode(errors="surrogatepass")


LINED = {".txt": _txt, ".jsonl": _jsonl, ".csv": _csv}
READERS: dict[str, Callable[[Path, str], Iterator[str | BadRecord]]] = {
    **{ending + packed: reader for packed in ("", *PACKED) for ending, reader in LINED.items()},
    ".parquet": _parquet,
}
