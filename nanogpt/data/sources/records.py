"""Reads the records of one .txt, .jsonl, .csv or .parquet file as a stream, in bounded memory.

A reader yields the text of each record, or a `BadRecord` in the place of one that cannot be used: the
caller decides whether to stop there. A fault of the whole file (damage, another encoding, no such
column) raises UserError.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import TextIO

from nanogpt.data.sources.text_file import (
    BUFFER,
    LONGEST,
    MARKER,
    PACKED,
    Piece,
    ending,
    find_separator,
    open_text,
    read_lines,
    unreadable,
)  # fmt: skip
from nanogpt.runtime.errors import UserError, shorten

ROWS = 16  # of Parquet at once, each perhaps as long as the longest
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
    return ending(path) in READERS


def read_texts(path: Path, field: str) -> Iterator[str | BadRecord]:
    """Yield the records of a file in their order, without stripping white space. Raises UserError for damage."""
    return READERS[ending(path)](path, field)


def read_piece(piece: Piece, field: str) -> Iterator[str | BadRecord]:
    """Yield the records of a piece as `read_texts` does; their lines are counted from its start."""
    reader = READERS[ending(piece.path)]
    return reader(piece.path if piece.end is None else piece, field)


def read_objects(path: Path) -> Iterator[tuple[str, dict] | BadRecord]:
    """Yield the records of a .jsonl, .csv or .parquet file with all their fields, and where each is, for messages.

    Raises UserError for damage, and for a .txt file, which has no fields.
    """
    kind = ending(path)
    if kind.startswith(".txt"):
        raise UserError(f"{path}: a .txt file has no fields for prompts and answers; write it as .jsonl")
    return _parquet_objects(path) if kind == ".parquet" else _objects_of_lines(path, ".csv" in kind)


def _objects_of_lines(path: Path, is_csv: bool) -> Iterator[tuple[str, dict] | BadRecord]:
    with open_text(path) as file:
        if is_csv:
            rows = _rows(path, file)
            header = next(rows, (1, []))
            if isinstance(header, BadRecord):
                raise UserError(header.message)
            for row in rows:
                if isinstance(row, BadRecord):
                    yield row
                elif any(row[1][len(header[1]) :]):
                    yield _too_many_fields(f"{path}, line {row[0]}: {len(row[1])} fields", len(header[1]))
                else:  # fields that a row lacks are missing in its record
                    yield f"{path}, line {row[0]}", dict(zip(header[1], row[1], strict=False))
            return
        for number, line in enumerate(read_lines(file), 1):
            where = f"{path}, line {number}"
            if line is None:
                yield _too_long(where, "divide the text into several records")
            elif line.strip():
                yield _undecoded(path, number, line) or _json_object(where, line)


def _json_object(where: str, line: str) -> tuple[str, dict] | BadRecord:
    found = _parse_json(where, line, {"prompt": "a question", "completion": "an answer"})
    return found if isinstance(found, BadRecord) else (where, found)


def _parquet_objects(path: Path) -> Iterator[tuple[str, dict] | BadRecord]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False) as file:
            rows = chain.from_iterable(batch.to_pylist() for batch in file.iter_batches(ROWS, use_threads=False))
            for number, row in enumerate(rows, 1):
                yield f"{path}, row {number}", row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from None


def _txt(path: Path | Piece, field: str) -> Iterator[str | BadRecord]:
    separator = path.separator if isinstance(path, Piece) else find_separator(path)
    with open_text(path) as file:
        numbered = enumerate(read_lines(file), 1)
        for is_separator, lines in groupby(numbered, lambda one: bool(one[1]) and one[1].strip() == separator):
            if not is_separator:
                number, text = _join_lines(lines)
                if text is None:
                    yield _too_long(f"{path}, line {number}", f"divide the text by blank lines, or by lines {MARKER}")
                elif text.strip():
                    yield _undecoded(path, number, text) or text.replace("\r\n", "\n")


def _join_lines(lines: Iterable[tuple[int, str | None]]) -> tuple[int, str | None]:
    """The number of the first line, and all lines as one text, or None for more than LONGEST characters."""
    first, size, text = 0, 0, io.StringIO()
    for number, line in lines:
        first, size = first or number, size + (len(line) if line else LONGEST + 1)
        if size <= LONGEST:
            text.write(line)
    return first, text.getvalue() if size <= LONGEST else None


def _jsonl(path: Path | Piece, field: str) -> Iterator[str | BadRecord]:
    with open_text(path) as file:
        for number, line in enumerate(read_lines(file), 1):
            where = f"{path}, line {number}"
            if line is None:
                yield _too_long(where, "divide the text into several records")
            elif line.strip():
                yield _undecoded(path, number, line) or _json_text(where, line, field)


def _parse_json(where: str, line: str, example: dict[str, str]) -> dict | BadRecord:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadRecord(
            "not valid JSON", f"{where}: not valid JSON ({error}); a .jsonl file has one JSON object a line"
        )
    if not isinstance(record, dict):
        example = json.dumps(example, ensure_ascii=False)
        message = f"{where}: not a JSON object but {shorten(line, 40)}; write it as {example}"
        return BadRecord("not a JSON object", message)
    return record


def _json_text(where: str, line: str, field: str) -> str | BadRecord:
    record = _parse_json(where, line, {field: "the text"})
    if isinstance(record, BadRecord):
        return record
    if field not in record:
        return BadRecord("no such field", _no_field(where, field, list(record)))
    text, where = record[field], f"{where}: the field {field!r}"
    if not isinstance(text, str):
        return BadRecord("not text", f"{where} is not text but {shorten(json.dumps(text), 40)}; {CHOOSE}")
    if find_surrogate(text) is not None:
        reason = "half a surrogate pair"
        return BadRecord(reason, f"{where} has {reason} (\\ud800 to \\udfff); repair it")
    return text


def _csv(path: Path, field: str) -> Iterator[str | BadRecord]:
    with open_text(path) as file:
        rows = _rows(path, file)
        header = next(rows, (1, []))
        if isinstance(header, BadRecord):
            raise UserError(header.message)
        number, names = header
        if field not in names:
            raise UserError(_no_field(f"{path}, line {number}", field, names))
        column, width = names.index(field), len(names)
        for row in rows:
            if isinstance(row, BadRecord):
                yield row
                continue
            number, fields = row
            where = f"{path}, line {number}: {len(fields)} fields"
            if len(fields) <= column:
                yield BadRecord("too few fields", f"{where}, so {field!r} is missing; repair the row")
            elif any(fields[width:]):
                yield _too_many_fields(where, width)
            else:
                yield fields[column]


def _too_many_fields(where: str, width: int) -> BadRecord:
    return BadRecord("too many fields", f"{where}, the header has {width}; put quotes around text with commas")


def _rows(path: Path, file: TextIO) -> Iterator[tuple[int, list[str]] | BadRecord]:
    """The rows that are not empty, each with its first line.

    What is not valid CSV, like an open quote, is one bad record that takes the rest of the file with it,
    since nothing tells where the next row begins.
    """
    csv.field_size_limit(LONGEST)
    reader, number = csv.reader(_csv_lines(file), strict=True), 1
    try:
        for row in reader:
            if row:
                yield _undecoded(path, number, "".join(row).replace("\n", " ")) or (number, row)
            number = reader.line_num + 1
    except csv.Error as error:
        message = f"{path}, line {number}: not valid CSV ({error}), so the rest of the file is unread; check the quotes"
        yield BadRecord("not valid CSV, rest of the file unread", message)


def _csv_lines(file: TextIO) -> Iterator[str]:
    for line in read_lines(file):
        if line is None:
            raise csv.Error(f"longer than {LONGEST:,} characters")
        yield line[:-2] + "\n" if line.endswith("\r\n") else line


def _parquet(path: Path, field: str) -> Iterator[str | BadRecord]:
    import pyarrow
    import pyarrow.parquet

    try:
        # A row group is often the whole file: with these it is read piece by piece.
        with pyarrow.parquet.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False) as file:
            schema = file.schema_arrow
            if field not in schema.names:
                raise UserError(_no_field(str(path), field, schema.names))
            kind = schema.field(field).type
            if pyarrow.types.is_dictionary(kind):
                kind = kind.value_type
            if kind not in (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()):
                raise UserError(f"{path}: the field {field!r} is not text but {kind}; {CHOOSE}")
            batches = file.iter_batches(ROWS, columns=[field], use_threads=False)
            column = (batch.column(0).cast(pyarrow.large_binary()).to_pylist() for batch in batches)
            for number, content in enumerate(chain.from_iterable(column), 1):
                yield _decode_cell(f"{path}, row {number}: the field {field!r}", content)
    except (pyarrow.ArrowException, OSError) as error:
        raise unreadable(path, error) from None


def _decode_cell(where: str, content: bytes | None) -> str | BadRecord:
    if content is None:
        return BadRecord("not text", f"{where} is not text but null; {CHOOSE}")
    if len(content) > LONGEST:
        return _too_long(where, "divide the text into several rows")
    try:
        return content.decode()
    except UnicodeDecodeError:
        return BadRecord("not UTF-8", f"{where} is not valid UTF-8; write the file again from text in UTF-8")


def _no_field(where: str, field: str, fields: list[str]) -> str:
    there = ", ".join(map(repr, fields)) or "none"
    return f"{where}: no field {field!r}, the fields are: {there}; {CHOOSE}"


def _too_long(where: str, remedy: str) -> BadRecord:
    return BadRecord("too long", f"{where}: longer than {LONGEST:,} characters; {remedy}")


def _undecoded(path: Path | Piece, number: int, text: str) -> BadRecord | None:
    """A bad record where a text, which begins in line `number` of a file, has bytes that are not UTF-8."""
    place = find_surrogate(text)
    if place is None:
        return None
    newlines = text.count("\n", 0, place)
    remedy = "convert the file, for example with iconv -f LATIN1 -t UTF-8 old > new"
    return BadRecord("not UTF-8", f"{path}, line {number + newlines}: not UTF-8; {remedy}")


def find_surrogate(text: str) -> int | None:
    """The place of the first half of a surrogate pair, which UTF-8 cannot represent."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


LINED = {".txt": _txt, ".jsonl": _jsonl, ".csv": _csv}
READERS: dict[str, Callable[[Path, str], Iterator[str | BadRecord]]] = {
    **{ending + packed: reader for packed in ("", *PACKED) for ending, reader in LINED.items()},
    ".parquet": _parquet,
}
