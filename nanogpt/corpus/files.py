"""Your own text: one file or a folder of .txt, .jsonl, .csv and .parquet files.

In a .txt file a line `<|endoftext|>` stands between documents; a file without such a line is split
at blank lines, so texts of several paragraphs need the marker. The other three hold one document a
line or row, in the field that the settings name. Everything is UTF-8 and read as a stream. Documents
of nothing but white space are passed over, and white space at both ends is cut off.
"""

import csv
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nanogpt.corpus.document import Corpus, DataSettings, Document
from nanogpt.errors import UserError

if TYPE_CHECKING:
    import pyarrow.parquet

MARKER = "<|endoftext|>"
BOM = "\ufeff"
LONGEST_CSV_FIELD = 2**31 - 1  # the csv module's own limit is 128 KiB; a C long has 32 bits on Windows
ROWS = 1024


@dataclass(frozen=True)
class FilesSettings:
    """Section `data.files` of params.yaml: stop at a bad record, or pass over it and count it."""

    strict: bool


def load(settings: DataSettings, own: FilesSettings) -> Corpus:
    """The documents of the file or folder `settings.path`, folders in sorted order.

    Raises UserError here for what opening the files shows: a missing path, nothing to read, an
    unknown ending, no such column. What lies deeper (bytes that are no UTF-8, a broken line, a field
    that is no text, no document at all) raises UserError while the documents are read.
    """
    paths = _paths(settings)
    for path in paths:
        if check := CHECKS.get(path.suffix.lower()):
            check(path, settings.field)

    def documents(skipped: Counter[str]) -> Iterator[Document]:
        empty = True
        for text in itertools.islice(_texts(paths, settings.field), settings.num_samples):
            empty = False
            yield Document(text)
        if empty:
            raise UserError(
                f"{settings.path}: no document in {len(paths)} file(s), only white space; set data.<role>.path to "
                "files with text"
            )

    return Corpus(settings.path, "your own", documents)


def _paths(settings: DataSettings) -> list[Path]:
    path = Path(settings.path).expanduser()
    endings = " ".join(READERS)
    if not settings.path or not path.exists():
        raise UserError(
            f"{settings.path or repr('')}: no such file or folder; set data.<role>.path in params.yaml to your text"
        )
    if path.is_file():
        if path.suffix.lower() not in READERS:
            raise UserError(f"{path}: unknown ending {path.suffix!r}; these are read: {endings}")
        return [path]
    try:
        found = [p for p in path.glob(settings.pattern) if p.suffix.lower() in READERS and p.is_file()]
    except (ValueError, NotImplementedError) as error:  # an empty or an absolute pattern
        raise UserError(f"data.<role>.pattern = {settings.pattern!r}: {error}; a good one is '**/*'") from None
    if not found:
        raise UserError(
            f"{path}: no file with an ending {endings} matches {settings.pattern!r}; put some there, or change "
            "data.<role>.path or data.<role>.pattern ('**/*' looks into every folder)"
        )
    return sorted(found, key=Path.as_posix)


def _texts(paths: list[Path], field: str) -> Iterator[str]:
    for path in paths:
        for text in READERS[path.suffix.lower()](path, field):
            if text := text.strip():
                yield text


def _lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file with ends "\\n", without a byte order mark. Raises UserError where it is no UTF-8."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    with file:
        offset = 0
        for number, line in enumerate(file, 1):
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}, line {number}, byte {offset + error.start}: not valid UTF-8; convert the file, "
                    "for example with iconv -f LATIN1 -t UTF-8"
                ) from None
            offset += len(line)
            if number == 1:
                text = text.removeprefix(BOM)
            yield text[:-2] + "\n" if text.endswith("\r\n") else text


def _txt(path: Path, field: str) -> Iterator[str]:
    marked = any(line.strip() == MARKER for line in _lines(path))
    end = MARKER if marked else ""
    document: list[str] = []
    for line in _lines(path):
        if line.strip() == end:
            yield "".join(document)
            document = []
        else:
            document.append(line)
    yield "".join(document)


def _jsonl(path: Path, field: str) -> Iterator[str]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not valid JSON ({error}); a .jsonl file has one JSON object a line") from None
        if not isinstance(record, dict):
            raise UserError(f'{where}: not a JSON object but {_short(line)}; write it as {{"{field}": "the text"}}')
        if field not in record:
            raise _no_field(where, field, list(record))
        text = record[field]
        if not isinstance(text, str):
            raise UserError(f"{where}: the field {field!r} is not text but {_short(json.dumps(text))}; {_CHOOSE}")
        if not _encodes(text):
            raise UserError(
                f"{where}: the field {field!r} has half of a surrogate pair (\\ud800 to \\udfff); repair it"
            )
        yield text


def _csv(path: Path, field: str) -> Iterator[str]:
    csv.field_size_limit(LONGEST_CSV_FIELD)
    rows = csv.reader(_lines(path), strict=True)  # strict: an open quote is an error, not one document to the end
    try:
        column = _column(path, next(rows, []), field)
        for row in rows:
            if row and len(row) <= column:
                raise UserError(
                    f"{path}, line {rows.line_num}: {len(row)} fields, so {field!r} is missing; repair the row"
                )
            if row:
                yield row[column]
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: not valid CSV ({error}); check the quotes") from None


def _column(path: Path, header: list[str], field: str) -> int:
    if field not in header:
        raise _no_field(f"{path}, line 1", field, header)
    return header.index(field)


def _check_csv(path: Path, field: str) -> None:
    try:
        _column(path, next(csv.reader(_lines(path), strict=True), []), field)
    except csv.Error as error:
        raise UserError(f"{path}, line 1: not valid CSV ({error}); check the quotes") from None


def _parquet(path: Path, field: str) -> Iterator[str]:
    import pyarrow  # slow to import, and few corpora need it

    with _open_parquet(path, field) as file:
        try:
            batches = file.iter_batches(ROWS, columns=[field])
            texts = itertools.chain.from_iterable(batch.column(0).to_pylist() for batch in batches)
            for row, text in enumerate(texts, 1):
                if text is None:
                    raise UserError(f"{path}, row {row}: the field {field!r} is not text but null; {_CHOOSE}")
                yield text
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _damaged(path, error) from None


def _open_parquet(path: Path, field: str) -> "pyarrow.parquet.ParquetFile":
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(path, error) from None
    schema = file.schema_arrow
    if field not in schema.names:
        raise _no_field(str(path), field, schema.names)
    kind = schema.field(field).type
    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    if kind not in (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()):
        raise UserError(f"{path}: the field {field!r} is not text but {kind}; {_CHOOSE}")
    return file


def _check_parquet(path: Path, field: str) -> None:
    _open_parquet(path, field).close()


_CHOOSE = "set data.<role>.field in params.yaml to the field that holds the text"


def _no_field(where: str, field: str, fields: list[str]) -> UserError:
    there = ", ".join(map(repr, fields)) or "none"
    return UserError(f"{where}: no field {field!r}, the fields are: {there}; {_CHOOSE}")


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: damaged, or not a Parquet file ({error}); fetch or write it again")


def _short(text: str) -> str:
    text = text.strip()
    return text if len(text) <= 40 else text[:40] + "…"


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


READERS: dict[str, Callable[[Path, str], Iterator[str]]] = {
    ".txt": _txt,
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".parquet": _parquet,
}
CHECKS: dict[str, Callable[[Path, str], None]] = {".csv": _check_csv, ".parquet": _check_parquet}
