import csv
import json
import tempfile
from collections import Counter
from pathlib import Path

import hypothesis
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.corpus import files
from nanogpt.corpus.document import DataSettings, Document
from nanogpt.errors import UserError

STRICT = files.FilesSettings(strict=True)
TEXTS = ["One.\n\nTwo paragraphs.", 'With "quotes", commas\nand lines', "Ünïcode 😀 <|endoftext|> \u2028 end"]


def settings(path, **changes) -> DataSettings:
    values = {"num_samples": None, "val_fraction": 0.1, "pattern": "**/*", "field": "text"}
    return DataSettings(**({"source": "files", "path": str(path)} | values | changes))


def read(path, **changes) -> list[str]:
    return [document.text for document in files.load(settings(path, **changes), STRICT).documents(Counter())]


def write_rows(path: Path, texts: list[str]) -> Path:
    """The texts as the field `text`, beside another field, by the ending's own library."""
    rows = [{"id": i, "text": text} for i, text in enumerate(texts)]
    match path.suffix:
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        case ".csv":
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, ["id", "text"])
                writer.writeheader()
                writer.writerows(rows)
        case ".parquet":
            schema = pyarrow.schema({"id": pyarrow.int64(), "text": pyarrow.string()})
            table = pyarrow.Table.from_pylist(rows, schema)
            pyarrow.parquet.write_table(table, path, row_group_size=2)
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
@hypothesis.settings(deadline=None)  # pyarrow's first import is slow
@given(texts=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r")), min_size=1, max_size=5))
def test_what_a_library_wrote_comes_back(ending, texts):
    kept = [text.strip() for text in texts if text.strip()]
    with tempfile.TemporaryDirectory() as folder:
        path = write_rows(Path(folder) / f"a{ending}", texts)
        if kept:
            assert read(path) == kept
        else:
            with pytest.raises(UserError, match="no document"):
                read(path)


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_paragraphs_quotes_and_the_marker_are_ordinary_text(tmp_path, ending):
    assert read(write_rows(tmp_path / f"a{ending}", TEXTS)) == TEXTS


def test_txt_with_the_marker(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("One.\n\nStill one.\n<|endoftext|>\n \n<|endoftext|>\nTwo <|endoftext|> inside.\n", newline="\r\n")
    assert read(path) == ["One.\n\nStill one.", "Two <|endoftext|> inside."]


def test_txt_without_the_marker_is_split_at_blank_lines(tmp_path):
    path = tmp_path / "a.TXT"
    path.write_bytes(b"\xef\xbb\xbf\n\nOne\nmore.\n \t\n\n\nTwo.")
    assert read(path) == ["One\nmore.", "Two."]


def test_a_folder_is_read_in_sorted_order_and_other_endings_are_passed_over(tmp_path):
    (tmp_path / "folder.txt").mkdir()
    for name in ("b.txt", "a/c.txt", "a/b.jsonl", "README.md", "a/image.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"text": name}) if name.endswith("jsonl") else name)
    assert read(tmp_path) == ["a/b.jsonl", "a/c.txt", "b.txt"]
    assert read(tmp_path, pattern="*.txt") == ["b.txt"]


def test_num_samples_and_reading_again(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", TEXTS)
    corpus = files.load(settings(path, num_samples=2), STRICT)
    assert (
        list(corpus.documents(Counter())) == list(corpus.documents(Counter())) == [Document(text) for text in TEXTS[:2]]
    )
    assert corpus.name == str(path)
    assert corpus.licence == "your own"


def test_a_csv_field_longer_than_the_libraries_limit(tmp_path):
    assert read(write_rows(tmp_path / "a.csv", ["x" * 200_000])) == ["x" * 200_000]


def complaint(path, **changes) -> str:
    with pytest.raises(UserError) as caught:
        files.load(settings(path, **changes), STRICT)
    return str(caught.value)


def late_complaint(path, **changes) -> str:
    documents = files.load(settings(path, **changes), STRICT).documents(Counter())
    with pytest.raises(UserError) as caught:
        list(documents)
    return str(caught.value)


def test_load_finds_what_opening_shows(tmp_path):
    assert "nowhere: no such file or folder" in complaint(tmp_path / "nowhere")
    assert "no such file" in complaint("")
    (tmp_path / "a.docx").touch()
    assert "unknown ending '.docx'; these are read: .txt .jsonl .csv .parquet" in complaint(tmp_path / "a.docx")
    assert "no file with an ending .txt .jsonl .csv .parquet matches '**/*'" in complaint(tmp_path)
    assert "data.<role>.pattern = ''" in complaint(tmp_path, pattern="")
    assert "data.<role>.pattern = '/x'" in complaint(tmp_path, pattern="/x")


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_load_finds_a_missing_column(tmp_path, ending):
    path = write_rows(tmp_path / f"a{ending}", TEXTS)
    message = complaint(path, field="story")
    assert "no field 'story', the fields are: 'id', 'text'" in message
    assert "data.<role>.field" in message


def test_load_finds_a_damaged_parquet_file_and_a_column_of_numbers(tmp_path):
    path = write_rows(tmp_path / "a.parquet", TEXTS)
    assert "'id' is not text but int64" in complaint(path, field="id")
    path.write_bytes(path.read_bytes()[:-20])
    assert "a.parquet: damaged" in complaint(path)


def test_an_empty_csv_and_a_folder_that_holds_one(tmp_path):
    (tmp_path / "a.csv").touch()
    assert "a.csv, line 1: no field 'text', the fields are: none" in complaint(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n{"text": \n', "a.jsonl, line 2: not valid JSON"),
        ("[" * 100_000, "a.jsonl, line 1: not valid JSON"),
        ('\n["text"]\n', 'a.jsonl, line 2: not a JSON object but ["text"]'),
        ('{"story": "a", "id": 1}', "a.jsonl, line 1: no field 'text', the fields are: 'story', 'id'"),
        ('{"text": 5}', "a.jsonl, line 1: the field 'text' is not text but 5"),
        ('{"text": null}', "a.jsonl, line 1: the field 'text' is not text but null"),
        ('{"text": "\\ud800"}', "a.jsonl, line 1: the field 'text' has half of a surrogate pair"),
        ("\n \n", "a.jsonl: no document"),
    ],
)
def test_broken_json_lines(tmp_path, content, message):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    assert message in late_complaint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,text\n1,a\n2\n", "a.csv, line 3: 1 fields, so 'text' is missing"),
        ('id,text\n1,"a\n', "a.csv, line 2: not valid CSV"),
        ("id,text\n", "a.csv: no document"),
    ],
)
def test_broken_csv_rows(tmp_path, content, message):
    path = tmp_path / "a.csv"
    path.write_text(content)
    assert message in late_complaint(path)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_invalid_utf8_names_line_and_byte(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b'{"text": "a"}\n{"text": "caf\xe9"}\n')
    assert f"{name}, line 2, byte 27: not valid UTF-8" in late_complaint(path)


def test_damage_inside_a_parquet_file(tmp_path):
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"text": [f"{i} text" for i in range(5000)]})
    pyarrow.parquet.write_table(table, path, compression="zstd")
    data = bytearray(path.read_bytes())
    data[1000:2000] = bytes(1000)
    path.write_bytes(data)
    assert "a.parquet: damaged" in late_complaint(path)


def test_null_in_a_parquet_file(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None]}), path)
    assert "a.parquet, row 2: the field 'text' is not text but null" in late_complaint(path)


def test_a_parquet_dictionary_column_is_text(tmp_path):
    table = pyarrow.table({"text": pyarrow.array(["a", "b", "a"]).dictionary_encode()})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == ["a", "b", "a"]
