import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from imports import ROOT

from nanogpt.data.prepare.prepare import prepare_corpus
from nanogpt.data.sources import files, load
from nanogpt.data.sources.document import Corpus, DataSettings
from nanogpt.data.tokens.bins import Bin
from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.data.tokens.tokenizer import load_tokenizer
from nanogpt.runtime.errors import UserError

CHAR = TokenizerSettings("char", 0, "error")


def own(path) -> Corpus:
    return files.load(
        DataSettings("files", None, 0.1, str(path), "*", "text", "text"), files.FilesSettings(strict=True, shard_mb=256)
    )


def test_a_folder_with_bins_and_the_tokenizer_trained_on_them(tmp_path):
    (tmp_path / "own.txt").write_text("one\n\ntwo\n\nthree\n")
    manifest = prepare_corpus(tmp_path / "out", own(tmp_path / "own.txt"), 0.1, CHAR)
    tok = load_tokenizer(tmp_path / "out" / "tokenizer")
    assert [tok.decode(ids) for ids in Bin.open(tmp_path / "out", "train", tok).documents()] == ["two", "three"]
    assert manifest["splits"]["val"]["documents"] == 1
    prepare_corpus(tmp_path / "second", own(tmp_path / "own.txt"), 0.1, tmp_path / "out" / "tokenizer")
    assert sorted(os.listdir(tmp_path / "second")) == ["SHA256SUMS", "manifest.json", "train.bin", "val.bin"]


def test_a_mistake_leaves_what_was_there(tmp_path):
    text = tmp_path / "own.txt"
    text.write_text("one\n\ntwo\n\nthree\n")
    prepare_corpus(tmp_path / "out", own(text), 0.1, CHAR)
    before = (tmp_path / "out" / "train.bin").read_bytes()
    text.write_text("a single document")
    with pytest.raises(UserError, match=r"1 document\(s\)"):
        prepare_corpus(tmp_path / "out", own(text), 0.1, CHAR)
    assert (tmp_path / "out" / "train.bin").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["out", "own.txt"]


def test_a_size_that_does_not_fit_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(load.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))

    def stories(count: int) -> Corpus:
        settings = DataSettings("stories", count, 0.1, "", "", "", "text")
        return load.SOURCES["stories"](settings, load.GeneratorSettings(1))

    for refuse in (load.validate_corpus, lambda corpus: prepare_corpus(tmp_path / "out", corpus, 0.1, CHAR)):
        with pytest.raises(UserError, match=r"num_samples = 10000: about \d.* of text from stories, .*; lower it"):
            refuse(stories(10_000))
    load.validate_corpus(stories(1000))
    assert not list(tmp_path.iterdir())


def test_characters_that_the_pretraining_corpus_lacks(tmp_path):
    for name, content in (("first", "one\n\ntwo"), ("other", "öne\n\ntwo")):
        (tmp_path / f"{name}.txt").write_text(content, encoding="utf-8")
    prepare_corpus(tmp_path / "first", own(tmp_path / "first.txt"), 0.1, CHAR)
    with pytest.raises(UserError, match=r"ö.*tokenizer\.unknown: replace"):
        prepare_corpus(tmp_path / "other", own(tmp_path / "other.txt"), 0.1, tmp_path / "first" / "tokenizer")
    replacing = TokenizerSettings("char", 0, "replace")
    prepare_corpus(tmp_path / "first", own(tmp_path / "first.txt"), 0.1, replacing)
    manifest = prepare_corpus(tmp_path / "other", own(tmp_path / "other.txt"), 0.1, tmp_path / "first" / "tokenizer")
    assert manifest["splits"]["val"]["replaced"] == 1


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_a_tokenizer_of_both_texts(tmp_path, kind):
    for name, content in (("first", "a cat\n\nthe cat"), ("other", "zebras\n\nöde zebras zebras")):
        (tmp_path / f"{name}.txt").write_text(content, encoding="utf-8")
    texts = [own(tmp_path / f"{name}.txt") for name in ("first", "other")]
    settings = TokenizerSettings(kind, 300, "error")
    prepare_corpus(tmp_path / "out", texts[0], 0.5, settings, texts[1])
    pieces = load_tokenizer(tmp_path / "out" / "tokenizer").pieces
    prepare_corpus(tmp_path / "alone", texts[0], 0.5, settings)
    alone = load_tokenizer(tmp_path / "alone" / "tokenizer").pieces
    word = {"bpe": b" zebras", "char": "ö".encode()}[kind]
    assert word in pieces and word not in alone
    assert {"bpe": b" cat", "char": b"c"}[kind] in pieces


def test_the_stage_on_a_short_text_by_hand(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "data" / "own", tmp_path / "data" / "own")
    (tmp_path / "notes.txt").write_text("\n\n".join(f"note {i}" for i in range(10)))
    flags = ["--path", "notes.txt", "--val-fraction", "0.5", "--out", "notes"]
    subprocess.run(
        [sys.executable, "-m", "stages.prepare", *flags],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True,
    )  # fmt: skip
    splits = json.loads((tmp_path / "notes" / "manifest.json").read_text())["splits"]
    assert [splits[split]["documents"] for split in ("train", "val")] == [5, 5]
