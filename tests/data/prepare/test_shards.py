"""Shards: the same bins as from one pass, begun again where they were, by several processes."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from imports import ROOT

from nanogpt.data.prepare import encode, shards
from nanogpt.data.prepare.prepare import encode_shards, prepare_corpus
from nanogpt.data.prepare.train_tokenizer import train_tokenizer
from nanogpt.data.sources import files, records, text_file
from nanogpt.data.sources.document import DataSettings
from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.runtime.errors import UserError

BYTE = train_tokenizer(TokenizerSettings("byte", 0, "error"), [])
CONTENTS = {
    "blank.txt": "one\nline two\n\n\ntwo é 日本\r\n\r\nthree\n\nfour, which is longer than the others\n\n\n\nfive",
    "marked.txt": "one\n\nstill one\n<|endoftext|>\ntwo\n <|endoftext|> \nthree\n\nstill three\n<|endoftext|>\n",
    "lines.jsonl": "".join(
        json.dumps({"text": f"{i} é\n\n{'x' * (i % 7)}"}) + "\n" + "\n" * (i % 3) for i in range(12)
    ),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_pieces_of_any_size_hold_the_same_records(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(CONTENTS[name].encode())
    whole = list(records.read_texts(path, "text"))
    for size in range(1, path.stat().st_size + 2):
        pieces = text_file.divide(path, size)
        assert sum(piece.size for piece in pieces) == path.stat().st_size
        assert [text for piece in pieces for text in records.read_piece(piece, "text")] == whole
    assert len(text_file.divide(path, 1)) > 2


def test_a_mistake_is_named_by_its_piece(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\n{"text": 1}\n')
    _, second = text_file.divide(path, 16)
    (bad,) = records.read_piece(second, "text")
    assert bad.message.startswith(f"{path} from byte 28 on, line 1: the field 'text' is not text but 1")


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder of text of seven shards of 1 MB, one blank; some documents are repeated in several."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / "text").mkdir()
    for number in range(3):
        texts = [f"text {number if i % 5 else 0} {i} é " + "word " * (i % 90) for i in range(8000)]
        (tmp_path / "text" / f"{number}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    (tmp_path / "text" / "1a.jsonl").write_text('{"text": "  "}\n' * 100_000)
    return tmp_path / "text"


def corpus(path: Path, shard_mb: int):
    settings = DataSettings("files", None, 0.1, str(path), "*", "text", "text")
    return files.load(settings, files.FilesSettings(strict=True, shard_mb=shard_mb))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_shards_give_the_bins_of_one_pass_and_leave_nothing(own, tmp_path):
    assert len(corpus(own, 1).parts()) > 5
    prepare_corpus("whole", corpus(own, 1000), 0.1, BYTE)
    manifest = prepare_corpus("sharded", corpus(own, 1), 0.1, BYTE)
    assert manifest["duplicates_removed"] > 3000
    assert content(tmp_path / "sharded") == content(tmp_path / "whole")
    assert list(tmp_path.glob(".work/prepare/*")) == []


def test_an_interrupted_call_goes_on_behind_its_last_shard(own, tmp_path, monkeypatch):
    prepare_corpus("whole", corpus(own, 1000), 0.1, BYTE)
    made, wanted = Counter(), [3]
    original = encode.encode_documents

    def until(documents, *args):
        if sum(made.values()) == wanted[0]:
            raise KeyboardInterrupt
        made[sum(made.values())] += 1
        return original(documents, *args)

    monkeypatch.setattr(
        shards, "encode_documents", lambda documents, tokenizer, chat: until(documents, tokenizer, chat)
    )
    with pytest.raises(KeyboardInterrupt):
        prepare_corpus("sharded", corpus(own, 1), 0.1, BYTE)
    assert not (tmp_path / "sharded").exists()
    wanted[0] = 1000
    prepare_corpus("sharded", corpus(own, 1), 0.1, BYTE)
    assert sum(made.values()) == len(corpus(own, 1).parts())  # each once
    assert content(tmp_path / "sharded") == content(tmp_path / "whole")


def test_another_tokenizer_or_text_has_shards_of_its_own(own):
    first = shards.open_shards(corpus(own, 1), BYTE)
    assert first.encode() == len(first.parts)
    assert shards.open_shards(corpus(own, 1), BYTE).encode() == 0
    other = train_tokenizer(TokenizerSettings("char", 0, "error"), corpus(own, 1).texts())
    assert shards.open_shards(corpus(own, 1), other).folder != first.folder
    (own / "2.jsonl").write_text('{"text": "changed"}\n')
    assert shards.open_shards(corpus(own, 1), BYTE).folder != first.folder
    assert shards.open_shards(corpus(own, 1000), BYTE) is None
    with pytest.raises(UserError, match=r"is one shard, so there is nothing to divide; lower data\.files\.shard_mb"):
        encode_shards(corpus(own, 1000), BYTE)


@pytest.mark.slow
def test_two_commands_divide_the_shards(own, tmp_path):
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(
        text.replace("shard_mb: 256", "shard_mb: 1").replace("kind: auto", "kind: byte")
    )
    (tmp_path / "data" / "own" / "model").mkdir(parents=True)
    words = [sys.executable, "-m", "stages.prepare", "--role", "pretrain", "--path", "text", "--out"]
    alone = subprocess.run([*words, "alone"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert alone.stdout.startswith("alone: text in byte tokens, ")
    helper = subprocess.Popen([*words, "x", "--shards-only"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    together = subprocess.run([*words, "together"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert together.stdout.startswith("together: ")
    said, _ = helper.communicate(timeout=60)
    assert said.endswith(" shards of text encoded\n") and helper.returncode == 0
    assert not (tmp_path / "x").exists()
    assert content(tmp_path / "together") == content(tmp_path / "alone")
