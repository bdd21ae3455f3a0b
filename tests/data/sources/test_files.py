import gzip
import json
import os
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from nanogpt.data.sources import files
from nanogpt.data.sources.document import Corpus, DataSettings
from nanogpt.runtime.errors import UserError

ENDINGS = ".txt .jsonl .csv .parquet"


def load(path, strict=True, **changes) -> Corpus:
    values = {"num_samples": None, "val_fraction": 0.1, "pattern": "**/*", "field": "text", "format": "text"}
    settings = DataSettings(**({"source": "files", "path": str(path)} | values | changes))
    return files.load(settings, files.FilesSettings(strict, 256))


def read(path, skipped=None, **changes) -> list[str]:
    documents = load(path, **changes).documents(Counter() if skipped is None else skipped)
    return [document.text for document in documents]


def complaint(path, **changes) -> str:
    """What load refuses, or reading."""
    with pytest.raises(UserError) as caught:
        read(path, **changes)
    return str(caught.value)


def write(folder: Path, contents: dict[str, str | bytes]) -> Path:
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


# Documents


def test_a_txt_file_with_and_without_the_marker(tmp_path):
    write(
        tmp_path,
        {"a.txt": "One.\r\n\r\nStill one.\r\n<|endoftext|>\r\n Two.\r\n", "b.txt": "\n\nOne\nmore.\n \t\nTwo. "},
    )
    assert read(tmp_path / "a.txt") == ["One.\n\nStill one.", "Two."]
    assert read(tmp_path / "b.txt") == ["One\nmore.", "Two."]


def test_every_type_packed_or_not_in_one_folder(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": ["parquet"], "id": [1]}), tmp_path / "parquet.PARQUET")
    with pyarrow.CompressedOutputStream(str(tmp_path / "txt.txt.zst"), "zstd") as stream:
        stream.write(b"zst")
    row = json.dumps({"text": "jsonl"})
    write(tmp_path, {"csv.csv": "id,text\n1,csv\n", "jsonl.jsonl.gz": gzip.compress(row.encode()), "txt.Txt": "txt"})
    assert read(tmp_path) == ["csv", "jsonl", "parquet", "txt", "zst"]


# Bad records

MIXED = {
    "a.csv": 'text,id\na\n"  ",1\n1,2,3\nb\n"open\nunread\n',
    "b.jsonl": '{"text": "c"}\n{"text": 1}\n\n{"text": \n{"text": "\\ud800"}\n[]\n{}\n{"text": "\\u3000"}\n',
    "c.txt": b"<|endoftext|>\ncaf\xe9\n<|endoftext|>\n \n<|endoftext|>\nd\n<|endoftext|>\n",
    "d.txt": "\n\n\ne\n\n\n\n",
}
ONE_EACH = (
    "too many fields", "not valid CSV, rest of the file unread", "not text", "not valid JSON",
    "half a surrogate pair", "not a JSON object", "no such field", "not UTF-8",
)  # fmt: skip
PASSED_OVER = {"blank": 2} | dict.fromkeys(ONE_EACH, 1)


def test_bad_records_are_passed_over_and_counted(tmp_path):
    corpus = load(write(tmp_path, MIXED), strict=False)
    for _ in range(2):
        skipped = Counter()
        assert [document.text for document in corpus.documents(skipped)] == ["a", "b", "c", "d", "e"]
        assert skipped == PASSED_OVER
    assert list(load(tmp_path, strict=False, num_samples=3).documents(skipped := Counter()))[-1].text == "c"
    assert skipped == {"blank": 1, "too many fields": 1, "not valid CSV, rest of the file unread": 1}


def test_strict_stops_at_the_first_bad_record(tmp_path):
    message = complaint(write(tmp_path, MIXED))
    assert "a.csv, line 4: 3 fields, the header has 2; put quotes around" in message
    assert message.endswith("; or set data.files.strict: false to pass over such records, counted")


# Faults of a whole file


@pytest.mark.parametrize("strict", [True, False])
def test_a_fault_of_a_whole_file_is_never_passed_over(tmp_path, strict):
    content = b"".join(os.urandom(20).hex().encode() + b"\n\n" for _ in range(200_000))
    for name, packed in (
        ("cut.txt.gz", gzip.compress(content, 1)[:-9]),
        ("none.txt.zst", b""),
        ("wide.txt", "One.".encode("utf-16")),
        ("column.csv", b"id,story\n1,a\n"),
        ("table.parquet", b"PAR1"),
    ):
        path = write(tmp_path, {name: packed}) / name
        message = complaint(path, strict=strict)
        assert str(path) in message
        assert "; " in message
        assert "data.files.strict" not in message


# Which files


def test_a_folder_is_read_in_sorted_order_and_what_is_hidden_is_not(tmp_path):
    read_ones = ["a/b.txt", "a/c.d/e.txt", "b.txt", "c.TXT", "x y.txt"]
    others = [".hidden.txt", "._b.txt", ".ipynb_checkpoints/b.txt", "a/.cache/deep/b.txt", "README.md", "a/image.png"]
    write(tmp_path, {name: name for name in reversed(read_ones + others)})
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "folder.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    assert read(tmp_path) == read_ones
    assert read(tmp_path, pattern="*.txt") == ["b.txt", "x y.txt"]
    assert read(tmp_path, pattern="a/**/*") == ["a/b.txt", "a/c.d/e.txt"]
    assert read(tmp_path / "a", pattern="../*.txt") == ["b.txt", "x y.txt"]
    assert read(tmp_path / ".hidden.txt") == [".hidden.txt"]
    assert read(tmp_path / ".ipynb_checkpoints") == [".ipynb_checkpoints/b.txt"]


def test_files_of_other_endings_are_counted_and_named(tmp_path, capsys):
    write(tmp_path, {"a.txt": "One.", "b/c.pdf": "", "README.md": "", "d.docx": "", ".hidden.pdf": ""})
    assert read(tmp_path, skipped := Counter()) == ["One."]
    assert skipped == {"files with another ending": 2}
    assert capsys.readouterr().err == f"{tmp_path}: 2 file(s) skipped for their ending (.docx, .pdf)\n"


def test_no_such_path():
    assert "nowhere: no such file or folder; set data.<role>.path in params.yaml" in complaint("nowhere")
    assert "'': no such file or folder" in complaint("")
    assert "~no-such-user/a.txt: no such file" in complaint("~no-such-user/a.txt")
    assert "no such file" in complaint("a\0.txt")


@pytest.mark.parametrize("name", ["a.docx", "a.gz", "a.txt.bz2", "a.parquet.gz", "txt"])
def test_an_unknown_ending(tmp_path, name):
    message = complaint(write(tmp_path, {name: ""}) / name)
    assert f"{name}: unknown ending {Path(name).suffix!r}; these are read: {ENDINGS}, all but .parquet also" in message


def test_a_pattern_that_matches_nothing(tmp_path):
    assert f"no file with an ending {ENDINGS} matches '**/*'" in complaint(tmp_path)
    write(tmp_path, {"b/c.txt": ""})
    assert "put some there, or change data.<role>.path or data.<role>.pattern" in complaint(tmp_path, pattern="*.txt")


@pytest.mark.parametrize("pattern", ["", "/x", "/abs/*", "//", ".", "./"])
def test_a_pattern_that_is_none(tmp_path, pattern):
    assert f"data.<role>.pattern = {pattern!r}: no pattern for" in complaint(tmp_path, pattern=pattern)
