"""Your own text: one file or a folder of .txt, .jsonl, .csv and .parquet files.

In a .txt file a line `<|endoftext|>` stands between documents; a file without such a line is split
at blank lines, so texts of several paragraphs need the marker. The other three hold one document a
line or row, in the field that the settings name, or with `format: chat` a conversation. Everything is UTF-8;
all but .parquet may be compressed as .gz or .zst. Documents of nothing but white space are skipped, and white
space at both ends is removed. Of a folder, hidden files and folders (`.name`) are not read, and files with other
endings are skipped and counted.
"""

import math
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path

from nanogpt.data.sources import records, text_file
from nanogpt.data.sources.chats import read_chats
from nanogpt.data.sources.document import Corpus, DataSettings, Document, Documents
from nanogpt.runtime.errors import UserError
from nanogpt.runtime.ranges import CheckedSettings, PositiveInt

ENDINGS = ".txt .jsonl .csv .parquet"
PACKED = "all but .parquet also as .gz or .zst"


@dataclass(frozen=True)
class FilesSettings(CheckedSettings):
    """Section `data.files` of params.yaml.

    Of more than `shard_mb` (10^6 bytes) of text, so much at a time is encoded and kept until all is (`prepare/shards`).
    `strict` true stops at a bad record, false skips and counts it; in a .csv file with broken quotes the rest of the
    file counts as one record.
    """

    strict: bool
    shard_mb: PositiveInt


def load(settings: DataSettings, options: FilesSettings) -> Corpus:
    """Return the documents of the file or folder `settings.path`, folders in sorted order.

    Raises UserError here for what a file shows by its first record: a missing path, nothing to read, an unknown
    ending, another encoding by its mark, no such column. What lies deeper raises UserError while the documents are
    read: a damaged file, no document at all, and with `options.strict` the first bad record (bytes that are no UTF-8, a
    broken line, a field that is no text, more than 32 Mi characters).
    """
    paths, others = _find_files(settings)
    chat = settings.format == "chat"
    read = read_chats if chat else partial(records.read_texts, field=settings.field)
    for path in paths:
        next(read(path), None)
    if others:
        endings = ", ".join(sorted({path.suffix or path.name for path in others}))
        print(f"{settings.path}: {len(others)} file(s) skipped for their ending ({endings})", file=sys.stderr)

    def documents(skipped: Counter[str]) -> Iterator[Document]:
        if others:
            skipped["files with another ending"] += len(others)
        texts = islice(_texts(map(read, paths), options.strict, skipped), settings.num_samples)
        first = next(texts, None)
        if first is None:
            only = ", ".join(f"{count} {reason}" for reason, count in skipped.items()) or "white space"
            remedy = "set data.<role>.path to files with text"
            raise UserError(f"{settings.path}: no document in {len(paths)} file(s), only {only}; {remedy}")
        yield from map(Document, chain([first], texts))

    parts = tuple if chat or settings.num_samples else partial(_parts, paths, settings.field, options)
    states = {str(path): [path.stat().st_size, path.stat().st_mtime_ns] for path in paths}
    identity = {"field": settings.field, "options": asdict(options), "files": states}
    return Corpus(settings.path, "your own", documents, chat=chat, parts=parts, identity=identity)


def _parts(paths: list[Path], field: str, options: FilesSettings) -> list[Documents]:
    """Divide files into parts of about `options.shard_mb` each: pieces of a large one, or several small ones."""
    size, parts, filled = options.shard_mb * 10**6, [], math.inf
    for path in paths:
        for piece in text_file.divide(path, size):
            if filled + piece.size > size:
                parts.append([])
                filled = 0
            parts[-1].append(piece)
            filled += piece.size

    def documents(pieces: list[text_file.Piece], skipped: Counter[str]) -> Iterator[Document]:
        read = (records.read_piece(piece, field) for piece in pieces)
        return map(Document, _texts(read, options.strict, skipped))

    return [partial(documents, pieces) for pieces in parts]


def _texts(files: Iterable[Iterator[str | records.BadRecord]], strict: bool, skipped: Counter[str]) -> Iterator[str]:
    for file in files:
        for record in file:
            if isinstance(record, records.BadRecord):
                if strict:
                    remedy = "set data.files.strict: false to pass over such records, counted"
                    raise UserError(f"{record.message}; or {remedy}")
                skipped[record.reason] += 1
            elif text := record.strip():
                yield text
            else:
                skipped["blank"] += 1


def _find_files(settings: DataSettings) -> tuple[list[Path], list[Path]]:
    """The files to read, and those that the pattern matches too but whose ending is unknown."""
    path = Path(os.path.expanduser(settings.path))
    if not settings.path or not os.path.exists(path):
        raise UserError(
            f"{settings.path or repr('')}: no such file or folder; set data.<role>.path in params.yaml to your text"
        )
    if not path.is_dir():
        if not records.is_readable(path):
            raise UserError(f"{path}: unknown ending {path.suffix!r}; these are read: {ENDINGS}, {PACKED}")
        return [path], []
    try:
        matching = _visible_files(path, settings.pattern)
    except ValueError:
        raise UserError(
            f"data.<role>.pattern = {settings.pattern!r}: no pattern for files in a folder; a good one is '**/*'"
        ) from None
    readable = [file for file in matching if records.is_readable(file)]
    if not readable:
        raise UserError(
            f"{path}: no file with an ending {ENDINGS} matches {settings.pattern!r} ({PACKED}); put some there, or "
            "change data.<role>.path or data.<role>.pattern ('**/*' looks into every folder)"
        )
    return readable, [file for file in matching if not records.is_readable(file) and file.name != "README.md"]


def _visible_files(folder: Path, pattern: str) -> list[Path]:
    """The files that a pattern matches and no dot hides, sorted, with broken links: opening those raises UserError.

    Raises ValueError for an empty pattern, an absolute one and, before Python 3.13, for `**` inside a name.
    """
    normalized = Path(pattern)  # glob does not know "./"
    if not normalized.parts or normalized.is_absolute():
        raise ValueError(pattern)
    visible = (path for path in folder.glob(str(normalized)) if not _is_hidden(path.relative_to(folder)))
    return sorted((path for path in visible if path.is_file() or not path.exists()), key=Path.as_posix)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") and part != ".." for part in path.parts)
