"""Texts of one model on the terminal: as they come, as JSON lines, for prompts of a file, and in a conversation."""

import io
import json
import re

import pytest

from nanogpt.checkpoint.folder import load_checkpoint, save_checkpoint
from nanogpt.data.tokens.chat import render_prompt

SHORT = ("--checkpoint", "models/pretrain", "--max-tokens", "12", "--num-samples", "2", "--seed", "3")


@pytest.fixture
def sample(project, run_stage, capsys):
    def run(*flags: str) -> str:
        assert not run_stage("sample", *SHORT, *flags)
        return capsys.readouterr().out

    return run


def test_json_lines_are_the_texts_of_the_terminal(sample, project):
    (project / "prompts.txt").write_text("once\nupon a\n")
    shown = sample("--prompt", "once", "--prompt", "upon a")
    lines = [json.loads(line) for line in sample("--prompt-file", "prompts.txt", "--json").splitlines()]
    assert [line["prompt"] for line in lines] == ["once", "once", "upon a", "upon a"]
    assert shown == "".join(f"{line['prompt']}{line['text']}\n\n" for line in lines)
    assert all(line["tokens"] == 12 or line["finish_reason"] == "stop" for line in lines)
    assert len({line["text"] for line in lines}) == 4


def test_flags_change_how_tokens_are_chosen(sample):
    greedy = sample("--prompt", "once", "--temperature", "0")
    first, second = greedy.split("\n\n")[:2]
    assert first == second
    for flags in (("--min-p", "1.0"), ("--top-k", "1"), ("--top-p", "0.000001")):
        assert sample("--prompt", "once", *flags) == greedy
    assert sample("--prompt", "once", "--temperature", "0", "--repetition-penalty", "9") != greedy
    stop = first.removeprefix("once")[2:5]
    stopped = sample("--prompt", "once", "--temperature", "0", "--stop", stop)
    assert stopped.startswith(first[: first.index(stop, 4)] + "\n")
    assert sample("--prompt", "once", "--temperature", "0", "--dtype", "int8")


def test_a_conversation_remembers_what_was_said(sample, project, monkeypatch, capsys):
    """Each turn is the answer to all that came before it, as if it had been asked at once."""
    model, tok = load_checkpoint("models/pretrain")
    words = ["time", "Ω", "on a"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join([*words, ""]) + "\n"))
    found = sample("--interactive", "--temperature", "0")
    texts = re.findall(r"prompt> ((?:.|\n)*?)\n\n", found.replace("prompt> prompt> ", "prompt> "))  # asked again for Ω
    assert [text[:4] for text in texts] == ["time", "on a"]  # a model without a chat template continues each
    tok.chat = True
    # the template's letters that the text lacks become the substitute
    tok._substitute = " "
    save_checkpoint("models/chat", model, tok)
    asked = []
    monkeypatch.setattr(
        "nanogpt.inference.writer.render_prompt", lambda messages: asked.append(list(messages)) or "once"
    )
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n\n"))
    found = sample("--checkpoint", "models/chat", "--interactive", "--temperature", "0")
    answers = re.findall(r"you> Assistant:((?:.|\n)*?)\n\n", found)
    assert [message["role"] for message in asked[1]] == ["user", "assistant", "user"]
    assert asked[1][1]["content"] == answers[0].strip() and asked[0] == asked[1][:1]
    assert render_prompt(asked[1]).endswith("\n\nUser: two\n\nAssistant:")


@pytest.mark.parametrize(
    ("flags", "message"),
    [("--json --also models/lora", "are for one"), ("--interactive --json", "leave --prompt"),
     ("--prompt a --prompt-file b", "exclude each other"),
     ("--checkpoint models/pretrain --prompt-file none", "none: no prompts"),
     ("--checkpoint models/pretrain --min-p 2", r"--min-p 2\.0: not between 0 and 1"),
     ("--checkpoint models/pretrain --stop=", "a text is empty")],
)  # fmt: skip
def test_mistakes(refuse, flags, message):
    assert re.search(message, refuse("sample", flags))
