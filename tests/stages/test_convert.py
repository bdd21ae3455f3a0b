"""`python -m stages.convert`, as it is called."""

import pytest
from foreign_models import nanogpt_checkpoint, same_logits
from model_folders import content, equal

from nanogpt.checkpoint.folder import load_checkpoint, save_checkpoint


@pytest.fixture
def convert(run_stage):
    return lambda *flags: run_stage("convert", *flags)


def test_folder_to_file_and_back(convert, tiny, byte, tmp_path):
    model = tiny("optimized", n_head=4, n_kv_head=2)
    save_checkpoint(tmp_path / "a", model, byte, card="# A model\n")
    assert not convert("--checkpoint", tmp_path / "a", "--out", tmp_path / "b.pt")
    assert equal(load_checkpoint(tmp_path / "b.pt")[0], model)
    assert not convert("--checkpoint", tmp_path / "b.pt", "--out", tmp_path / "c")
    before = content(tmp_path / "a")
    assert content(tmp_path / "c") == before
    half = ("--dtype", "bfloat16", "--format", "pt")
    assert not convert("--checkpoint", tmp_path / "a", "--out", tmp_path / "c", *half, "--overwrite")
    after = content(tmp_path / "c")
    assert after["README.md"] == before["README.md"] and "model.pt" in after and "model.safetensors" not in after
    rounded = model.bfloat16().float()
    assert equal(load_checkpoint(tmp_path / "c")[0], rounded)


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
