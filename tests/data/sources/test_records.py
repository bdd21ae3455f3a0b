import gzip
import re
from unittest.mock import patch

import hypothesis
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_files import ANY, PACKED, TEXTS, ZSTD, complaint, faults, pack, read, read_bytes, written

from nanogpt.data.sources import records, text_file
from nanogpt.runtime.errors import UserError

# What was written comes back


@pytest.mark.parametrize("ending", PACKED)
@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".csv"])
@hypothesis.settings(deadline=None, max_examples=40)
@given(texts=st.lists(ANY, max_size=5))
def test_what_a_library_wrote_comes_back(kind, ending, texts):
    if kind == ".txt":
        texts = [text.strip() for text in texts if text.strip() and "<|endoftext|>" not in text]
    back = read_bytes(pack(written(kind, texts), ending), kind + ending)
    assert [text.strip() for text in back] == [text.strip() for text in texts]


# .txt

MARKS = ["<|endoftext|>", " <|endoftext|>\t", "<|endoftext|>\xa0"]
LINES = ["", " \t", "\u3000", "\x85", "One.", "日本", "\0", "\r", " x<|endoftext|>", "<|endoftext|>>"]


def split(content: str) -> list[str]:
    """The documents, line by line."""
    lines = content.split("\n")
    marked = any(line.strip() == "<|endoftext|>" for line in lines)
    documents = [[]]
    for line in lines:
        if line.strip() == ("<|endoftext|>" if marked else ""):
            documents.append([])
        else:
            documents[-1].append(line)
    texts = ["\n".join(document).replace("\r\n", "\n").strip() for document in documents]
    return [text for text in texts if text]


@hypothesis.settings(deadline=None, max_examples=300)
@given(
    lines=st.lists(st.sampled_from(LINES), max_size=12) | st.lists(st.sampled_from(LINES + MARKS), max_size=12),
    newline=st.sampled_from(["\n", "\r\n"]),
)
def test_txt_is_split_as_line_by_line(lines, newline):
    content = newline.join(lines)
    assert faults(content, ".txt") == split(content)


# Packed files


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_several_members_one_after_the_other(ending):
    parts = [b"", b"O", b"n", b"e.\n\nTwo", b".", b""]
    assert faults(b"".join(pack(part, ending) for part in parts), f".txt{ending}") == ["One.", "Two."]


@hypothesis.settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_damage_anywhere_is_found_or_harmless(data):
    for ending, content in ((".gz", gzip.compress(b"One.\n\nTwo.\n")), (".zst", ZSTD)):
        damaged = bytearray(content)
        damaged[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        try:  # some bits say nothing
            assert faults(bytes(damaged), f".txt{ending}") == ["One.", "Two."]
        except UserError as error:
            assert "damaged" in str(error)


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize("tail", [b"garbage", b"One.\n\nTwo.", bytes(4)])
def test_what_follows_the_packed_text_is_damage_too(ending, tail):
    assert "damaged" in complaint(pack(b"One.\n\nTwo.", ending) + tail, f".txt{ending}")
    assert "damaged" in complaint(b"One.\n\nTwo.", f".txt{ending}")


# Encodings


@pytest.mark.parametrize("ending", PACKED)
@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".csv"])
def test_the_mark_of_utf8_is_dropped(kind, ending):
    content = b"text,id\nOne.,1\n" if kind == ".csv" else written(kind, ["One."]).removeprefix(b"\n<|endoftext|>\n")
    assert read_bytes(pack(b"\xef\xbb\xbf" + content, ending), kind + ending) == ["One."]


@pytest.mark.parametrize(("kind", "ending"), [(".txt", ""), (".jsonl", ".gz"), (".csv", ".zst")])
@pytest.mark.parametrize("codec", ["UTF-16-LE", "UTF-16-BE", "UTF-32-LE", "UTF-32-BE"])
def test_other_encodings_are_named(kind, ending, codec):
    content = ("\ufeff" + written(kind, ["One."]).decode()).encode(codec)
    family = codec[:6]
    message = complaint(pack(content, ending), kind + ending)
    assert f"a{kind}{ending}: {family}, not UTF-8; convert it: iconv -f {family} -t UTF-8 old > new" in message


@pytest.mark.parametrize(
    ("ending", "content", "line"),
    [
        (".txt", "One.\n\nTwo\ncaf¿ x\n\nThree.", 4),
        (".txt", "One.\n<|endoftext|>\n\ncaf¿ x\n<|endoftext|>\nThree.", 4),
        (".jsonl", '{"text": "One."}\n{"text": "caf¿"}\n{"text": "Three."}\n', 2),
        (".csv", 'text\nOne.\n"caf\n¿",\nThree.\n', 3),
        (".csv", "text,who\nOne.,I\nTwo.,¿\nThree.,I\n", 3),
    ],
)
def test_bytes_that_are_no_utf8_cost_their_record(tmp_path, ending, content, line):
    path = tmp_path / f"a{ending}"
    path.write_bytes(content.encode().replace("¿".encode(), b"\xe9"))
    first, bad, last = read(path)
    assert (first.strip(), bad.reason, last.strip()) == ("One.", "not UTF-8", "Three.")
    assert f"a{ending}, line {line}: not UTF-8; convert the file, for example with iconv" in bad.message


def test_windows_newlines():
    assert faults("One\r\nmore.\r\n\r\nTwo.\r\n", ".txt") == ["One\nmore.", "Two."]
    assert faults('{"text": "One\\r\\nmore."}\r\n\r\n{"text": "Two."}\r\n', ".jsonl") == ["One\r\nmore.", "Two."]
    assert faults('id,text\r\n1,"One\r\nmore."\r\n\r\n2,Two.\r\n', ".csv") == ["One\nmore.", "Two."]


# Columns and Parquet


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".csv.zst", ".parquet"])
def test_a_missing_column_is_a_fault_of_the_file(ending):
    kind, packed = re.fullmatch(r"(\.\w+)(.*)", ending).groups()
    message = complaint(pack(written(kind, TEXTS), packed), ending, "story")
    assert "no field 'story', the fields are: 'id', 'text'; set data.<role>.field" in message


def test_a_bad_header_is_a_fault_of_the_file():
    assert "line 1: not UTF-8" in complaint(b"id\xe9,text\n", ".csv")


def parquet(column: pyarrow.Array | list, **options) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), sink, **options)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("kind", [pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()])
def test_every_type_of_text_in_parquet(kind):
    texts = ["a", "é", None, "a"]
    assert faults(parquet(pyarrow.array(texts, kind)), ".parquet") == ["a", "é", "!not text", "a"]
    if kind != pyarrow.string_view():
        packed = pyarrow.array(texts, kind).dictionary_encode()
        assert faults(parquet(packed), ".parquet") == ["a", "é", "!not text", "a"]


@pytest.mark.parametrize("column", [[1], [b"a"], [None], [["a"]]])
def test_a_parquet_column_of_another_type(column):
    assert "a.parquet: the field 'text' is not text but" in complaint(parquet(pyarrow.array(column)), ".parquet")


def test_bad_values_in_parquet():
    values = [b"a", b"\xff", b"x" * 101, b"b"]
    text = pyarrow.Array.from_buffers(pyarrow.string(), 4, pyarrow.array(values, pyarrow.binary()).buffers())
    with patch.object(records, "LONGEST", 100), patch.object(text_file, "LONGEST", 100):
        a, code, long, b = read_bytes(parquet(text), ".parquet")
    assert (a, code.reason, long.reason, b) == ("a", "not UTF-8", "too long", "b")
    assert "a.parquet, row 2: the field 'text' is not valid UTF-8" in code.message
    assert (
        "a.parquet, row 3: the field 'text': longer than 100 characters; divide the text into several rows"
        in long.message
    )


def test_a_large_row_group_is_read_piece_by_piece(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet([f"{i} " * 5000 for i in range(4000)], compression="none", use_dictionary=False))
    assert path.stat().st_size > 90e6
    before = pyarrow.total_allocated_bytes()
    for i, text in enumerate(records.read_texts(path, "text")):
        assert text.startswith(f"{i} ")
        assert pyarrow.total_allocated_bytes() - before < 40e6
