import json
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

from nanogpt.data.sources import records, text_file
from nanogpt.data.sources.records import BadRecord

# Bad records: each is exactly one, what stands around it is read

GOOD = {".jsonl": '{"text": "good"}\n', ".csv": "1,good\n", ".txt": "good\n\n"}
BROKEN = {
    ".jsonl": {
        '{"text": \n': "not valid JSON",
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
        "¿,bad\n": "not UTF-8",
        '2,"bad\nbad ¿\n\nbad"\n': "not UTF-8",
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
    with patch.object(records, "LONGEST", 2000), patch.object(text_file, "LONGEST", 2000):
        read = faults(pack(content, packed), kind + packed)
    assert read == ["good" if piece == GOOD[kind] else f"!{BROKEN[kind][piece]}" for piece in pieces]


@pytest.mark.parametrize(
    "broken", ['2,"open\n', '2,"a "quote" inside"\n', "2," + "x" * 3000 + "\n", '2,"' + "x\n" * 1500]
)
def test_broken_csv_ends_the_file_with_one_bad_record(broken):
    with patch.object(records, "LONGEST", 2000), patch.object(text_file, "LONGEST", 2000):
        good, bad = read_bytes(f"id,text\n1,good\n{broken}3,unread\n".encode(), ".csv")
    assert (good, bad.reason) == ("good", "not valid CSV, rest of the file unread")
    assert "a.csv, line 3: not valid CSV (" in bad.message


@pytest.mark.parametrize(
    ("ending", "content", "message"),
    [
        (".jsonl", '{"text": "a"}\n{"text": \n', "a.jsonl, line 2: not valid JSON (Expecting value: line 2 column 1"),
        (".jsonl", '\n["text"]\n', 'a.jsonl, line 2: not a JSON object but ["text"]; write it as {"text": "the text"}'),
        (".jsonl", '{"story": "a", "id": 1}', "a.jsonl, line 1: no field 'text', the fields are: 'story', 'id'; set"),
        (".jsonl", "[" * 100_000, "a.jsonl, line 1: not valid JSON (maximum recursion depth exceeded"),
        (".jsonl", '{"text": 5}', "a.jsonl, line 1: the field 'text' is not text but 5; set data.<role>.field"),
        (".csv", 'id,text\n1,"a\nb",c\n', "a.csv, line 2: 3 fields, the header has 2; put quotes around text with c"),
        (".csv", 'id,text\n"1\n",a\n1,"a\n', "a.csv, line 4: not valid CSV (unexpected end of data)"),
        (".jsonl", '{"text": "' + "x" * 2**22, "a.jsonl, line 1: longer than 3,145,728 characters; divide"),
        (".txt", "a\n\n\n" + "x" * 2**22, "a.txt, line 4: longer than 3,145,728 characters; divide"),
    ],
)
def test_a_message_says_what_where_and_what_to_do(ending, content, message):
    with patch.object(records, "LONGEST", 3 * 2**20), patch.object(text_file, "LONGEST", 3 * 2**20):
        bad = [record for record in read_bytes(content.encode(), ending) if isinstance(record, BadRecord)]
    assert [message in record.message for record in bad] == [True], bad


# Records that are too long


@pytest.mark.parametrize("ending", [".txt", ".jsonl"])
def test_the_longest_record_is_read_and_one_more_byte_is_too_many(ending):
    begin, end = {".txt": ("", ""), ".jsonl": ('{"text": "', '"}\n')}[ending]
    with patch.object(records, "LONGEST", 50), patch.object(text_file, "LONGEST", 50):
        text = "x" * (50 - len(begin + end))
        assert faults(f"{begin}{text}{end}", ending) == [text]
        assert faults(f"{begin}{text}x{end}", ending) == ["!too long"]


LONG = {
    "a.txt": (b"first\n\n", b"x y ", b"\n\nlast"),
    "a.jsonl": (b'{"text": "first"}\n{"text": "', b"x y ", b'"}\n{"text": "last"}\n'),
    "marked.txt": (b"first\n<|endoftext|>\n", b"x\n\n ", b"\n<|endoftext|>\nlast"),
    "a.txt.gz": (b"first\n\n", bytes(4), b"\n\nlast"),
    "open.csv": (b'text\nfirst\n"open\n', b"x" * 999 + b"\n", b"last\n"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_memory_stays_bounded(tmp_path, name):
    begin, piece, end = LONG[name]
    path = tmp_path / name
    path.write_bytes(pack(begin + piece * (200 * 2**20 // len(piece)) + end, path.suffix))
    texts, mib = measured(path)
    path.unlink()
    assert texts == (["first"] if name == "open.csv" else ["first", "last"])
    assert mib < (350 if name == "open.csv" else 200)  # the csv module takes four bytes a character


def measured(path: Path) -> tuple[list[str], float]:
    """The short texts, and the memory that a process of its own needs to read them, in MiB."""
    code = (
        "import json, resource, sys; from pathlib import Path; from nanogpt.data.sources import records\n"
        "found = list(records.read_texts(Path(sys.argv[1]), 'text'))\n"
        "texts = [text.strip() for text in found if isinstance(text, str)]\n"
        "print(json.dumps([texts, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))"
    )
    # A process starts with the peak of the one that started it: with a small one between, not with ours.
    between = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]], check=True)"
    command = [sys.executable, "-c", between, "-c", code, path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    texts, peak = json.loads(done.stdout)
    return texts, peak / (2**20 if sys.platform == "darwin" else 2**10)
