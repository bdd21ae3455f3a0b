import json
from collections import Counter

import pyarrow
import pyarrow.parquet
import pytest
from record_files import pack

from nanogpt.data.sources import files
from nanogpt.data.sources.document import DataSettings
from nanogpt.data.sources.files import FilesSettings
from nanogpt.runtime.errors import BadSetting, UserError

PAIRS = [{"prompt": "A?", "completion": "One.\n\nTwo."}, {"prompt": ' "B", b ', "completion": " ü\n"}]
TEXTS = ["User: A?\n\nAssistant: One.\n\nTwo.", 'User: "B", b\n\nAssistant: ü']


def read(path, strict=True) -> tuple[list[str], Counter]:
    settings = DataSettings("files", None, 0.1, str(path), "*", "unused", "chat")
    corpus, skipped = files.load(settings, FilesSettings(strict, 256)), Counter()
    assert corpus.chat
    return [document.text for document in corpus.documents(skipped)], skipped


def lines(records: list) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".csv", ".parquet"])
def test_prompts_and_completions(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    if ending == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"id": 1} | pair for pair in PAIRS]), path)
    elif ending == ".csv":
        path.write_text('id,prompt,completion\n1,A?,"One.\n\nTwo."\n2," ""B"", b ", ü\n')
    else:
        path.write_bytes(pack(lines(PAIRS), ending.removeprefix(".jsonl")))
    assert read(path) == (TEXTS, {})


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_each_answer_of_a_conversation_is_a_document_with_all_that_is_before_it(tmp_path, ending):
    roles = ["system", "user", "assistant", "user", "assistant", "user"]
    record = {"messages": [{"role": role, "content": f"{i}"} for i, role in enumerate(roles)]}
    path = tmp_path / f"a{ending}"
    if ending == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([record]), path)
    else:
        path.write_bytes(lines([record]))
    first = "System: 0\n\nUser: 1\n\nAssistant: 2"
    assert read(path)[0] == [first, f"{first}\n\nUser: 3\n\nAssistant: 4"]


def say(*turns: str) -> dict:
    return {"messages": [dict(zip(("role", "content"), turn.split(":"), strict=True)) for turn in turns]}


BROKEN = [
    ({"text": "A story."}, "no conversation"),
    ({"messages": "user: hi"}, "no conversation"),
    ({"prompt": "A?"}, "a message without text"),
    ({"prompt": "A?", "completion": "  "}, "a message without text"),
    (say("user:hi", "tool:x"), "a role that is not user, assistant or system"),
    (say("user:hi"), "no answer to a prompt"),
    (say("assistant:hi"), "no answer to a prompt"),
    ({"prompt": "Say\n\nAssistant: no", "completion": "yes"}, "a message with a paragraph that begins with Assistant:"),
    ({"messages": [{"role": ["user"], "content": "hi"}]}, "a role that is not user, assistant or system"),
    ({"prompt": "A?", "completion": "\ud800"}, "half a surrogate pair"),
    ([1], "not a JSON object"),
]


@pytest.mark.parametrize(("record", "reason"), BROKEN)
def test_bad_records_are_counted_or_named(tmp_path, record, reason):
    (tmp_path / "a.jsonl").write_bytes(lines([PAIRS[0], record, PAIRS[1]]) + b"\xff\n{\n")
    texts, skipped = read(tmp_path / "a.jsonl", strict=False)
    assert texts == TEXTS
    assert skipped == Counter({reason: 1, "not UTF-8": 1, "not valid JSON": 1})
    with pytest.raises(UserError, match=r"a\.jsonl, line 2: .*set data\.files\.strict: false"):
        read(tmp_path / "a.jsonl")


def test_a_csv_answer_with_an_unquoted_comma(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,completion\nhi,well, hello there\nhi,hello\n")
    assert read(tmp_path / "a.csv", strict=False) == (["User: hi\n\nAssistant: hello"], {"too many fields": 1})


def test_what_has_no_records(tmp_path):
    (tmp_path / "a.txt").write_text("User: hi")
    with pytest.raises(UserError, match=r"a\.txt: a \.txt file has no fields for prompts and answers; write it as"):
        read(tmp_path / "a.txt")
    with pytest.raises(BadSetting, match="stories has no records of prompts and answers; choose text"):
        DataSettings("stories", 10, 0.1, "", "*", "text", "chat")
