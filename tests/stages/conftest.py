"""A small project, and the scripts run in it."""

import importlib
import shutil
import sys
from pathlib import Path

import pytest
from adapters import fill
from adapters import settings as lora_settings
from imports import ROOT
from model_folders import content

from nanogpt.checkpoint.folder import load_checkpoint, save_checkpoint
from nanogpt.data.prepare.prepare import prepare_corpus
from nanogpt.data.sources import files
from nanogpt.data.sources.document import DataSettings
from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.data.tokens.tokenizer import load_tokenizer
from nanogpt.lora.adapter import save_adapter
from nanogpt.lora.attach import attach_adapter
from nanogpt.runtime import process


@pytest.fixture(scope="session")
def original(tmp_path_factory, tiny):
    """A project with own text, its bins by characters, a model and an adapter."""
    folder = tmp_path_factory.mktemp("original")
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "data" / "own" / "model").mkdir(parents=True)
    (folder / "own.txt").write_text("\n\n".join(f"once upon a time, {i}" for i in range(60)))
    settings = DataSettings("files", None, 0.1, str(folder / "own.txt"), "*", "text", "text")
    corpus = files.load(settings, files.FilesSettings(strict=True, shard_mb=256))
    for role in ("pretrain", "finetune"):
        prepare_corpus(folder / "data" / role, corpus, 0.1, TokenizerSettings("char", 0, "error"))
    base = folder / "models" / "pretrain"
    save_checkpoint(base, tiny(), load_tokenizer(folder / "data" / "pretrain" / "tokenizer"))
    adapted = fill(attach_adapter(load_checkpoint(base)[0], lora_settings(), 1))
    save_adapter(adapted, folder / "models" / "lora", base)
    return folder


@pytest.fixture
def project(original, tmp_path, monkeypatch) -> Path:
    """A copy of the project, which is the working folder."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run_stage(monkeypatch):
    """Run a script with these flags in this process: its error message, one line, or None."""

    def run(script: str, *flags: str) -> str | None:
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, flags)])
        try:
            process.run_stage(importlib.import_module(f"stages.{script}").main)
        except SystemExit as end:
            assert end.code.startswith("error: ") and "\n" not in end.code
            return end.code

    return run


@pytest.fixture
def refuse(project, run_stage):
    """Run a script that must refuse and change nothing: its message."""

    def run(script: str, flags: str) -> str:
        before = content(project)
        message = run_stage(script, *flags.split())
        assert message and content(project) == before
        return message

    return run
