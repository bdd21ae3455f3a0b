import json
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from imports import ROOT
from record_files import PACKED, faults, pack, read_bytes

from nanogpt.data.sources import records
from nanogpt.data.sources.records import BadRecord

# Bad records: each is exactly one, what stands around it is read

GOOD = {".jsonl": '{"text": "good"}\n', ".csv": "1,good\n", ".txt": "good\n\n"}
BROKEN = {
    ".jsonl": {
        '{"text": \n': "not valid JSON",
        '{"text": Infinite}\n': "not valid JSON",
        '["text"]\n': "not a JSON object",
        '{"story": "a"}\n': "no such field",
        '{"text": null}\n': "not text",
        '{"text": "\\ud800"}\n': "half a surrogate pair",
        '{"text": "¿"}\n': "not UTF-8",
        '{"text": "' + "x" * 3000 + '"}\n': "too long",
    },
    ".csv": {
        "2\n": "too few fields",
        "2,bad,comma\n": "too many fields",
        '2,"a "quote" inside"\n': "not valid CSV",
        "2,¿\n": "not UTF-8",
        "¿,bad\n": "not UTF-8",
        '2,"bad\nbad ¿\n\nbad"\n': "not UTF-8",
        "2," + "x" * 3000 + "\n": "too long",
    },
    ".txt": {"bad ¿\n\n": "not UTF-8", "x" * 3000 + "\n\n": "too long", "many\n" * 600 + "\n": "too long"},
}


@pytest.mark.parametrize("kind", GOOD)
@hypothesis.settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_bad_records_in_any_position_are_counted_exactly(kind, data):
    pieces = data.draw(st.lists(st.just(GOOD[kind]) | st.sampled_from(list(BROKEN[kind])), max_size=9))
    packed = data.draw(st.sampled_from(PACKED))
    content = ("id,text\n" * (kind == ".csv") + "".join(pieces)).encode().replace("¿".encode(), b"\xe9")
    with patch.object(records, "LONGEST", 2000), patch.object(records, "CHUNK", data.draw(st.integers(100, 2000))):
        read = [text.strip() for text in faults(pack(content, packed), kind + packed)]
    assert read == ["good" if piece == GOOD[kind] else f"!{BROKEN[kind][piece]}" for piece in pieces]


@hypothesis.settings(deadline=None)
@given(st.lists(st.sampled_from(["1,good\n", "2,good\r\n", "few\n", '2,"open\n', '2,"open\r\n']), max_size=9))
def test_every_open_quote_costs_one_row(pieces):
    expected = {"few": "!too few fields", "1,g": "good", "2,g": "good", '2,"': "!not valid CSV"}
    assert faults("id,text\n" + "".join(pieces), ".csv") == [expected[piece[:3]] for piece in pieces]


def test_lines_are_counted_beyond_a_bad_row():
    *bad, good, last = read_bytes(b'id,text\n1,"open\n2\n3\n"4\n",a\n5\n', ".csv")
    assert good == "a"
    assert [re.search(r"line (\d+)", one.message)[1] for one in [*bad, last]] == ["2", "3", "4", "7"]


def test_an_open_quote_among_quoted_fields():
    rows = "".join(f'{i},"{i} good"\n' for i in range(3))
    good = ["0 good", "1 good", "2 good"]
    assert faults(f'id,text\n{rows}9,"open\n{rows}', ".csv") == [*good, "!not valid CSV", *good]


@pytest.mark.parametrize(
    ("ending", "content", "message"),
    [
        (".jsonl", '{"text": "a"}\n{"text": \n', "a.jsonl, line 2: not valid JSON (Expecting value: line 2 column 1"),
        (".jsonl", '\n["text"]\n', 'a.jsonl, line 2: not a JSON object but ["text"]; write it as {"text": "the text"}'),
        (".jsonl", '{"story": "a", "id": 1}', "a.jsonl, line 1: no field 'text', the fields are: 'story', 'id'; set"),
        (".jsonl", "[" * 100_000, "a.jsonl, line 1: not valid JSON (maximum recursion depth exceeded"),
        (".jsonl", "1" * 5000, "a.jsonl, line 1: not valid JSON (Exceeds the limit"),
        (".jsonl", '{"text": 5}', "a.jsonl, line 1: the field 'text' is not text but 5; set data.<role>.field"),
        (".jsonl", '{"text": "\\udfff"}', "a.jsonl, line 1: the field 'text' has half of a surrogate pair"),
        (".csv", "id,text\n1,a\n\n2\n", "a.csv, line 4: 1 fields, so 'text' is missing; repair the row"),
        (".csv", 'id,text\n1,"a\nb",c\n', "a.csv, line 2: 3 fields, the header has 2; put quotes around text with c"),
        (".csv", 'id,text\n"1\n",a\n1,"a\n', "a.csv, line 4: not valid CSV (unexpected end of data); check the quotes"),
    ],
)
def test_a_message_says_what_where_and_what_to_do(ending, content, message):
    bad = [record for record in read_bytes(content.encode(), ending) if isinstance(record, BadRecord)]
    assert [message in record.message for record in bad] == [True], bad


def test_empty_fields_beyond_the_header_and_short_rows_with_the_text():
    assert faults("text,id\na,1,,\nb\n", ".csv") == ["a", "b"]


# Records that are too long


@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".csv"])
def test_the_longest_record_is_read_and_one_more_byte_is_too_many(ending):
    begin, end = {".txt": ("", ""), ".jsonl": ('{"text": "', '"}\n'), ".csv": ("", "\n")}[ending]
    header = "text\n" * (ending == ".csv")
    for chunk in (30, 100, 2**20):
        with patch.object(records, "LONGEST", 50), patch.object(records, "CHUNK", chunk):
            text = "x" * (50 - len(begin + end))
            assert faults(f"{header}{begin}{text}{end}", ending) == [text]
            assert faults(f"{header}{begin}{text}x{end}", ending) == ["!too long"]


@pytest.mark.parametrize("end", ["\n<|endoftext|>\n", "\n\n"])
@hypothesis.settings(deadline=None)
@given(
    documents=st.lists(st.lists(st.sampled_from(["é", "long " * 7, "x" * 99]), min_size=1, max_size=9), max_size=6),
    chunk=st.integers(30, 120),
)
def test_long_documents_of_many_lines(end, documents, chunk):
    texts = ["\n".join(lines) for lines in documents]
    with patch.object(records, "LONGEST", 80), patch.object(records, "CHUNK", chunk):
        assert faults(end.join([*texts, ""]), ".txt") == [
            text if len(text.encode()) <= 80 else "!too long" for text in texts
        ]


def test_lines_are_counted_beyond_what_is_too_long():
    with patch.object(records, "LONGEST", 80), patch.object(records, "CHUNK", 64):
        _, long, code = read_bytes(b"One.\n\n" + b"line\n" * 100 + b"\nmore\n\xe9", ".txt")
        assert "a.txt, line 3: longer" in long.message
        assert "a.txt, line 105, byte 1 of it" in code.message


def test_messages_for_what_is_too_long():
    with patch.object(records, "LONGEST", 3 * 2**20):
        for ending, begin, number, remedy in (
            (".txt", "a\n\n\n", 4, "divide the text by blank lines, or by lines <|endoftext|>"),
            (".jsonl", '{"text": "a"}\n', 2, "divide the text into several records"),
            (".csv", "text\na\n", 3, "divide the text, or close the quote that is open"),
        ):
            _, bad = read_bytes(f"{begin}{'x' * 4 * 2**20}".encode(), ending)
            assert f"a{ending}, line {number}: longer than 3 MiB; {remedy}" in bad.message


def test_rows_of_many_lines_and_lines_inside_rows_that_are_too_long():
    with patch.object(records, "LONGEST", 30):
        assert faults('text\na\n"' + "line\n" * 8 + '"\nb\n', ".csv")[:2] == ["a", "!too long"]
        assert faults('text\na\n"open\n' + "x" * 31 + "\nb\n", ".csv") == ["a", "!too long", "!too long", "b"]
        assert faults('text\na\n"open\n' + "b\n" * 20, ".csv") == ["a", "!too long", *["b"] * 20]


LONG = {
    "a.txt": (b"first\n\n", b"x y ", b"\n\nlast"),
    "a.jsonl": (b'{"text": "first"}\n{"text": "', b"x y ", b'"}\n{"text": "last"}\n'),
    "a.csv": (b'text\nfirst\n"', b"x y ", b'"\nlast\n'),
    "lines.txt": (b"first\n\n", b"x\ny\n", b"\n\nlast"),
    "marked.txt": (b"first\n<|endoftext|>\n", b"x\n\n ", b"\n<|endoftext|>\nlast"),
    "a.txt.gz": (b"first\n\n", bytes(4), b"\n\nlast"),
    "a.jsonl.zst": (b'{"text": "first"}\n{"text": "', b"x y ", b'"}\n{"text": "last"}\n'),
    "open.csv": (b'text\nfirst\n"open\n', b"x" * 999 + b"\n", b"last\n"),
}
SLOW = list(LONG)[3:]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in LONG])
def test_memory_stays_bounded(tmp_path, name):
    begin, piece, end = LONG[name]
    path = tmp_path / name
    path.write_bytes(pack(begin + piece * (200 * 2**20 // len(piece)) + end, path.suffix))
    texts, reasons, mib = measured(path)
    path.unlink()
    assert (texts, reasons) == (["first", "last"], ["too long"])
    assert mib < (350 if name == "open.csv" else 200)  # the csv module takes four bytes a character


def measured(path: Path) -> tuple[list[str], list[str], float]:
    """The short texts, the reasons, and the memory that a process of its own needs to read them, in MiB."""
    code = (
        "import json, resource, sys; from pathlib import Path; from nanogpt.data.sources import records\n"
        "texts, reasons = [], []\n"
        "for r in records.read_texts(Path(sys.argv[1]), 'text'):\n"
        "    if isinstance(r, records.BadRecord): reasons.append(r.reason)\n"
        "    elif len(r) < 10: texts.append(r)\n"
        "print(json.dumps([texts, reasons, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))"
    )
    # A process starts with the peak of the one that started it: with a small one between, not with ours.
    between = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]], check=True)"
    command = [sys.executable, "-c", between, "-c", code, path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    texts, reasons, peak = json.loads(done.stdout)
    return texts, reasons, peak / (2**20 if sys.platform == "darwin" else 2**10)
