"""Mistakes at the keyboard: one message that says what to do, exit status 1, earlier results untouched."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from imports import ROOT

from nanogpt.checkpoint.folder import save_checkpoint
from nanogpt.data.prepare.prepare import prepare_corpus
from nanogpt.data.sources import files
from nanogpt.data.sources.document import DataSettings
from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.data.tokens.tokenizer import load_tokenizer
from nanogpt.model.build import build_model
from nanogpt.model.config import ModelConfig

STRICT = files.FilesSettings(strict=True)
TINY = ModelConfig("base", 1, 2, 2, 16, 32, 0.0, False, 128)


@pytest.fixture
def project(tmp_path):
    """A folder outside DVC with settings, own text, its bins by characters, and a model."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "data" / "own", tmp_path / "data" / "own")
    (tmp_path / "own.txt").write_text("\n\n".join(f"once upon a time, {i}" for i in range(60)))
    data = DataSettings("files", None, 0.1, str(tmp_path / "own.txt"), "*", "text")
    prepare_corpus(tmp_path / "data" / "pretrain", files.load(data, STRICT), 0.1, TokenizerSettings("char", 0, "error"))
    tok = load_tokenizer(tmp_path / "data" / "pretrain" / "tokenizer")
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "models" / "pretrain", build_model(TINY), tok)
    return tmp_path


def files(folder) -> dict[str, bytes]:
    """Everything below a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(project, *command: str) -> str:
    """Run a stage that must refuse: its message. Nothing may change on the disk."""
    before = files(project)
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert files(project) == before
    message = done.stderr.strip().splitlines()
    assert len(message) == 1 and message[0].startswith("error: "), done.stderr
    return message[0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, r"missing\.txt: no such file or folder; set data\.<role>\.path"),
        ("empty.txt", b" \n\n", r"empty\.txt: no document"),
        ("single.txt", b"a single document", r"1 document\(s\).*give more documents"),
        ("latin1.txt", "caf\xe9\n\nth\xe9\n".encode("latin-1"), r"latin1\.txt.*UTF-8"),
        ("broken.jsonl", b'{"text": "a"}\n{"text": \n', r"broken\.jsonl.*line 2"),
        ("other.jsonl", b'{"text": "a"}\n{"story": "b"}\n', r"other\.jsonl.*line 2.*story.*field"),
        ("table.csv", b"title,body\na,b\n", r"table\.csv.*text.*title.*body"),
        ("notes.doc", b"text", r"notes\.doc.*\.txt"),
    ],
)
def test_text_that_cannot_be_read(project, name, content, message):
    if content is not None:
        (project / name).write_bytes(content)
    assert re.search(
        message, refused(project, "stages.prepare", "--source", "files", "--path", name, "--num-samples", "50")
    )


def test_an_unknown_source(project):
    assert "wikipedia" in refused(project, "stages.prepare", "--source", "wikipedia")


def test_a_corpus_shorter_than_a_block(project):
    (project / "short.txt").write_text("on\n\nce")
    data = DataSettings("files", None, 0.5, str(project / "short.txt"), "*", "text")
    prepare_corpus(project / "data" / "pretrain", files.load(data, STRICT), 0.5, TokenizerSettings("byte", 0, "error"))
    message = refused(project, "stages.pretrain")
    assert re.search(
        r"train\.bin of .*short\.txt has 4 tokens.*model\.block_size = 256.*smaller model\.block_size", message
    )


def test_a_prompt_with_characters_that_the_tokenizer_lacks(project):
    message = refused(project, "stages.sample", "--checkpoint", "models/pretrain", "--prompt", "once ünd")
    assert "ü" in message


def test_a_setting_out_of_its_range(project):
    message = refused(project, "stages.sample", "--checkpoint", "models/pretrain", "--temperature", "-1")
    assert re.search(r"--temperature -1\.0: .*negative.*; choose 0 \(greedy\) to 1\.5", message)
    assert "--num-samples" in refused(project, "stages.sample", "--num-samples", "many")


def test_a_checkpoint_that_is_none_or_of_another_architecture(project):
    assert "config.json" in refused(project, "stages.sample", "--checkpoint", "models/nothing")
    config = project / "models" / "pretrain" / "config.json"
    config.write_text(config.read_text().replace('"gpt2"', '"bert"'))
    message = refused(project, "stages.sample", "--checkpoint", "models/pretrain")
    assert re.search(r"'bert' is not one of ours; gpt2 \(base\) and llama \(optimized\) are", message)


def test_a_merge_without_an_adapter(project):
    assert "adapter_config.json" in refused(project, "stages.merge", "--lora-checkpoint", "models/nothing")


def test_outside_the_project(project):
    os.unlink(project / "params.yaml")
    assert "params.yaml does not exist; run from the project's folder" in refused(project, "stages.pretrain")
