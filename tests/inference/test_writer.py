import contextlib
import itertools
import json
import math
import re

import pytest
import torch
from sampling_settings import PLAIN, sampling

from nanogpt.data.tokens.chat import render_prompt
from nanogpt.inference.prompts import read_prompts
from nanogpt.inference.settings import SampleSettings
from nanogpt.inference.text_stream import TextStream
from nanogpt.inference.threads import FIRST_TRIAL, TRIAL, ThreadChoice
from nanogpt.inference.writer import Writer
from nanogpt.runtime.errors import BadSetting, UserError


def test_texts_are_their_tokens(tiny, byte):
    writer = Writer(tiny().eval(), byte, "float32")
    texts = writer.write(["The cat", "tea"], sampling(num_samples=8, max_tokens=300), 3)
    assert [len(each) for each in texts] == [8, 8]
    for text in itertools.chain(*texts):
        ids = [token.id for token in text.tokens]
        ended = ids[-1] == byte.eot
        assert text.written == byte.decode(ids) and text.finish == ("stop" if ended else "length")
        assert len(ids) == 300 or ended
    assert {text.finish for text in texts[0]} == {"stop", "length"}
    assert texts[1][0].prompt_tokens == 4
    again = Writer(tiny().eval(), byte, "float32").write(["tea"], sampling(num_samples=2, max_tokens=300), 3)
    assert [text.written for text in again[0]] == [text.written for text in texts[1][:2]]


def test_pieces_are_the_text_and_a_stop_string_ends_it(tiny, byte):
    model, settings = tiny().eval(), sampling(num_samples=1, max_tokens=200)
    whole = Writer(model, byte).write([""], settings, 5)[0][0].written
    stop = whole[60:63]
    writer, pieces = Writer(model, byte), []
    text = writer.add([], sampling(max_tokens=200, stop=["never to be found", stop]), 5)
    while news := writer.step():
        pieces += [piece for _, piece in news]
    assert "".join(pieces) == text.written == whole[: whole.index(stop)] and text.finish == "stop"
    assert len(text.tokens) < 200 and not writer.engine.rows and not writer.texts
    writer.remove(text)  # once more does no harm


def test_a_model_with_a_chat_template_answers_messages(tiny, byte):
    writer = Writer(tiny().eval(), byte)
    assert writer.encode(writer.messages("Hi.")) == byte.encode("Hi.")
    byte.chat = True
    try:
        assert writer.encode(writer.messages("Hi.")) == byte.encode(render_prompt([{"role": "user", "content": "Hi."}]))
    finally:
        byte.chat = False


def test_what_a_writer_refuses(tiny, char, byte, monkeypatch):
    with pytest.raises(UserError, match=r"does not know: .*'Ω' U\+03A9, 'щ' U\+0449"):
        Writer(tiny(vocab_size=char.vocab_size), char).write(["The Ω and щ"], sampling(), 1)
    monkeypatch.setattr("nanogpt.inference.writer.supported", lambda: ["float32"])
    with pytest.raises(BadSetting, match="there are no kernels for it here"):
        Writer(tiny(), byte, "int8")


@pytest.mark.parametrize(
    ("stop", "expected"),
    [([], "Été 🙂 ends\n\nEND here"), (["END"], "Été 🙂 ends\n\n"), (["\n\n", "ends\n"], "Été 🙂 "),
     (["nds", "Z"], "Été 🙂 e"),
     (["here!"], "Été 🙂 ends\n\nEND here"), (["Été"], ""), (["e"], "Été 🙂 ")],
    ids=str,
)  # fmt: skip
def test_a_stream_splits_no_character_and_stops(byte, stop, expected):
    """Whatever was given out is part of the text: what may become a stop string is held back."""
    stream, given = TextStream(byte, stop), ""
    for id in "Été 🙂 ends\n\nEND here".encode():
        piece = stream.add(id)
        given += piece
        assert expected.startswith(given) and "\ufffd" not in piece
    assert given + stream.finish() == expected
    assert stream.stopped == (expected != "Été 🙂 ends\n\nEND here")


def test_a_stream_ends_in_half_a_character(byte):
    stream = TextStream(byte)
    pieces = [stream.add(id) for id in "a🙂".encode()[:3]]
    assert pieces == ["a", "", ""] and stream.finish() == byte.decode("🙂".encode()[:2])


def test_one_thread_is_chosen_where_several_are_slow(monkeypatch):
    times, now = {1: 1.0, 3: 5.0}, 0.0  # seconds of a call by threads
    monkeypatch.setattr("time.perf_counter", lambda: now)

    def call() -> int:
        nonlocal now
        now += times[torch.get_num_threads()]
        return torch.get_num_threads()

    choice = ThreadChoice(most=3)
    used = [choice.run(call) for _ in range(200)]
    assert used[:FIRST_TRIAL] == [3] * FIRST_TRIAL and choice.threads == 1
    assert used.count(3) < 20
    times[3] = 0.5  # the other process has ended
    used = [choice.run(call) for _ in range(600)]
    assert choice.threads == 3 and used.count(1) < 300


def test_single_slow_steps_do_not_decide_and_a_failed_one_ends_no_trial(monkeypatch):
    """Of a context that is read again, and of a model whose output is not finite."""
    now, calls = 0.0, 0
    monkeypatch.setattr("time.perf_counter", lambda: now)

    def call() -> int:
        nonlocal now, calls
        calls += 1
        now += {1: 1.3, 3: 1.0}[torch.get_num_threads()] * (6 if calls % 8 == 4 else 1)
        if calls == FIRST_TRIAL + TRIAL:
            raise ArithmeticError
        return torch.get_num_threads()

    choice, used = ThreadChoice(most=3), []
    for _ in range(2000):
        with contextlib.suppress(ArithmeticError):
            used.append(choice.run(call))
    assert choice.threads == 3 and used.count(1) < 40


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_samples", 0), ("max_tokens", 0), ("prompts", []), ("prompts", ["a", ""]), ("temperature", -0.1),
     ("temperature", math.nan), ("temperature", math.inf), ("top_k", 0), ("top_p", 0.0), ("top_p", 1.1),
     ("min_p", 0.0), ("min_p", 1.1), ("repetition_penalty", 0.05), ("repetition_penalty", math.inf), ("stop", [""]),
     ("prompts", ["caf\udce9"])],
)  # fmt: skip
def test_wrong_settings(key, value):
    with pytest.raises(BadSetting) as caught:
        SampleSettings(**PLAIN | {"dtype": "auto", "prompts": ["The cat"]} | {key: value})
    assert caught.value.key == key and caught.value.value is value


def test_prompts_from_a_file(tmp_path):
    lines = tmp_path / "prompts.txt"
    lines.write_text("Once upon\n\n  Été\n", encoding="utf-8")
    assert read_prompts(lines) == ["Once upon", "  Été"]
    objects = tmp_path / "prompts.jsonl"
    texts = ["a\nb", "c", "one\u2028and\x85the\x0csame"]
    objects.write_text("\n".join(json.dumps({"prompt": text}, ensure_ascii=False) for text in texts), "utf-8-sig")
    assert read_prompts(objects) == texts
    lines.write_bytes("\ufeffa\r\n".encode() + texts[2].encode())
    assert read_prompts(lines) == ["a", texts[2]]


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.txt", b""), ("a.txt", b"\n \n"), ("a.txt", b"\xff\xfe"), ("a.jsonl", b"{"), ("a.jsonl", b"[1]"),
     ("a.jsonl", b'{"text": "a"}'), ("a.jsonl", b'{"prompt": 3}'), ("a.jsonl", b"[" * 100_000), ("none.txt", None)],
)  # fmt: skip
def test_files_without_prompts(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(tmp_path / name))):
        read_prompts(tmp_path / name)


def test_the_line_of_a_mistake_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n\n{"prompt": b}\n')
    with pytest.raises(UserError, match=r"\(line 3: JSONDecodeError: "):
        read_prompts(tmp_path / "a.jsonl")
