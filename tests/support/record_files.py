"""Files of records, written by others' means, and what the readers make of them."""

import csv
import gzip
import io
import json
import tempfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import strategies as st

from nanogpt.data.sources import records
from nanogpt.data.sources.records import BadRecord
from nanogpt.runtime.errors import UserError

TEXTS = ["One.\n\nTwo paragraphs.", 'With "quotes", commas\nand lines', "Ünïcode 😀 <|endoftext|> \u2028 end", "a\0b"]
ANY = st.text(st.characters(codec="utf-8", exclude_characters="\r"))
PACKED = ["", ".gz", ".zst"]
# Written by zstd 1.5 from "One.\n\nTwo.\n"; the last four bytes are its checksum.
ZSTD = bytes.fromhex("28b52ffd04585900004f6e652e0a0a54776f2e0a59769b98")


def pack(content: bytes, ending: str) -> bytes:
    if ending == ".gz":
        return gzip.compress(content, 1)
    if ending == ".zst":
        sink = pyarrow.BufferOutputStream()
        with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(content)
        return sink.getvalue().to_pybytes()
    return content


def written(kind: str, texts: list[str]) -> bytes:
    """The texts as the field `text`, beside another field, by the kind's own library."""
    match kind:
        case ".txt":
            return "\n<|endoftext|>\n".join(["", *texts]).encode()
        case ".jsonl":
            return "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)).encode()
        case ".csv":
            file = io.StringIO(newline="")
            writer = csv.DictWriter(file, ["id", "text"])
            writer.writeheader()
            writer.writerows({"id": i, "text": text} for i, text in enumerate(texts))
            return file.getvalue().encode()
        case ".parquet":
            table = pyarrow.table({"id": range(len(texts)), "text": pyarrow.array(texts, pyarrow.string())})
            sink = pyarrow.BufferOutputStream()
            pyarrow.parquet.write_table(table, sink, row_group_size=2)
            return sink.getvalue().to_pybytes()


def read(path: Path, field: str = "text") -> list[str | BadRecord]:
    return list(records.read_texts(path, field))


def read_bytes(content: bytes | str, ending: str, field: str = "text") -> list[str | BadRecord]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{ending}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read(path, field)


def faults(content: bytes | str, ending: str) -> list[str]:
    """What was read, stripped, with the reasons in place of what is bad."""
    return [f"!{r.reason}" if isinstance(r, BadRecord) else r.strip() for r in read_bytes(content, ending)]


def complaint(content: bytes | str, ending: str, field: str = "text") -> str:
    """The message of a fault of the whole file."""
    with pytest.raises(UserError) as caught:
        read_bytes(content, ending, field)
    return str(caught.value)
