"""`python -m stages.convert`, as it is called."""

import subprocess
import sys

import pytest
import torch
from foreign_models import gpt2, nanogpt_checkpoint, same_logits
from imports import ROOT
from model_folders import content, equal

from nanogpt.checkpoint.folder import load_checkpoint, save_checkpoint
from nanogpt.runtime import process
from stages import convert as stage


@pytest.fixture
def convert(monkeypatch):
    """Run the stage with these flags: its error message, one line, or None."""

    def run(*flags) -> str | None:
        monkeypatch.setattr(sys, "argv", ["stages/convert.py", *map(str, flags)])
        try:
            process.run_stage(stage.main)
        except SystemExit as end:
            assert end.code.startswith("error: ") and "\n" not in end.code
            return end.code

    return run


def test_folder_to_file_and_back(convert, tiny, byte, tmp_path):
    model = tiny("optimized", n_head=4, n_kv_head=2)
    save_checkpoint(tmp_path / "a", model, byte, card="# A model\n")
    assert not convert("--checkpoint", tmp_path / "a", "--out", tmp_path / "b.pt")
    assert equal(load_checkpoint(tmp_path / "b.pt")[0], model)
    assert not convert("--checkpoint", tmp_path / "b.pt", "--out", tmp_path / "c")
    before = content(tmp_path / "a")
    assert content(tmp_path / "c") == before
    assert not convert("--checkpoint", tmp_path / "a", "--out", tmp_path / "a", "--dtype", "bfloat16", "--format", "pt")
    after = content(tmp_path / "a")  # in its own place, with its card
    assert after["README.md"] == before["README.md"] and "model.pt" in after and "model.safetensors" not in after
    rounded = model.bfloat16().float()
    assert equal(load_checkpoint(tmp_path / "a")[0], rounded)


def test_from_nanogpt(convert, byte, tmp_path):
    theirs = nanogpt_checkpoint(tmp_path / "ckpt.pt", bias=False, prefix="_orig_mod.")
    assert "holds no tokenizer" in convert("--checkpoint", tmp_path / "ckpt.pt", "--out", tmp_path / "m")
    assert not (tmp_path / "m").exists()
    byte.save(tmp_path / "tokens")
    flags = ("--checkpoint", tmp_path / "ckpt.pt", "--out", tmp_path / "m", "--tokenizer", tmp_path / "tokens")
    assert not convert(*flags)
    ours, tok = load_checkpoint(tmp_path / "m")
    same_logits(ours, theirs)
    assert tok.sha256 == byte.sha256


def test_from_hugging_face(convert, byte, tmp_path):
    gpt2(vocab_size=320).save_pretrained(tmp_path / "theirs")
    byte.save(tmp_path / "tokens")
    assert not convert(
        "--checkpoint", tmp_path / "theirs", "--out", tmp_path / "m.pt", "--tokenizer", tmp_path / "tokens"
    )
    same_logits(load_checkpoint(tmp_path / "m.pt")[0], gpt2(vocab_size=320))
    gpt2(vocab_size=100).save_pretrained(tmp_path / "small")
    said = convert("--checkpoint", tmp_path / "small", "--out", tmp_path / "n", "--tokenizer", tmp_path / "tokens")
    assert "the tokenizer has 257 tokens and the model 100" in said


def test_nothing_of_another_kind_is_replaced(convert, tiny, byte, tmp_path):
    save_checkpoint(tmp_path / "models" / "a", tiny(), byte)
    before = content(tmp_path)
    (tmp_path / "folder.pt").mkdir()
    for out in ("models", "models/a/config.json", "folder.pt"):
        said = convert("--checkpoint", tmp_path / "models" / "a", "--out", tmp_path / out)
        assert "choose another name" in said
    assert "--out" in convert("--checkpoint", tmp_path / "models" / "a")
    assert "has no config.json" in convert("--checkpoint", tmp_path, "--out", tmp_path / "b")
    torch.save({}, tmp_path / "other.pt")
    assert "other.pt" in convert("--checkpoint", tmp_path / "other.pt", "--out", tmp_path / "b")
    (tmp_path / "other.pt").unlink()
    assert content(tmp_path) == before


def test_help_waits_for_no_torch():
    code = "import sys; sys.argv.append('--help'); from stages import convert\ntry: convert.main()\nexcept SystemExit: "
    done = subprocess.run(
        [sys.executable, "-c", code + "print([m for m in ('torch', 'numpy') if m in sys.modules])"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert "--tokenizer FOLDER" in done.stdout and done.stdout.endswith("\n[]\n"), done


def test_as_it_is_called(tiny, byte, tmp_path):
    save_checkpoint(tmp_path / "a", tiny(), byte)
    command = [sys.executable, "-m", "stages.convert", "--checkpoint", tmp_path / "a", "--out", tmp_path / "b.pt"]
    subprocess.run(command, cwd=ROOT, check=True)
    assert equal(load_checkpoint(tmp_path / "b.pt")[0], tiny())
