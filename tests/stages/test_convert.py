"""`python -m stages.convert`, as it is called."""

import pytest
from foreign_models import nanogpt_checkpoint, same_logits
from model_folders import content, equal

from nanogpt.checkpoint.folder import load_checkpoint, save_checkpoint
from nanogpt.checkpoint.gguf_file import save_gguf
from nanogpt.checkpoint.model_card import MODEL_USE


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
    for file_format, other in (("safetensors", "pt"), ("pt", "safetensors")):
        card = f"# A model\n\n## Use\n\n{MODEL_USE[other]}\n"
        save_checkpoint(tmp_path / "a", model, byte, card=card)
        flags = ("--checkpoint", tmp_path / "a", "--out", tmp_path / "c", "--format", file_format, "--overwrite")
        assert not convert(*flags)
        assert (tmp_path / "c" / "README.md").read_text() == card.replace(MODEL_USE[other], MODEL_USE[file_format])
    assert not convert("--checkpoint", tmp_path / "a", "--out", tmp_path / "c", *half, "--overwrite")
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


def test_to_gguf(convert, tiny, byte, tmp_path, capsys):
    model = tiny("optimized", n_embd=32)
    save_checkpoint(tmp_path / "a", model, byte)
    flags = ("--checkpoint", tmp_path / "a", "--out", tmp_path / "m.gguf")
    assert not convert(*flags)
    assert f"ollama create NAME -f {tmp_path / 'm.Modelfile'}" in capsys.readouterr().out
    assert not convert(*flags, "--format", "gguf", "--dtype", "q8_0", "--overwrite")
    save_gguf(tmp_path / "direct" / "m.gguf", model, byte, "q8_0")
    for name in ("m.gguf", "m.Modelfile"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "direct" / name).read_bytes()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--out a/m.gguf --checkpoint a", "a/m.gguf exists; add --overwrite"),
        ("--out a/n.gguf --checkpoint a", "a/n.Modelfile exists; add --overwrite"),
        ("--out a.gguf --checkpoint a.gguf --overwrite", "which this command reads"),
        ("--out new --checkpoint a --format gguf", "choose a name that ends in .gguf"),
        ("--out new.pt --checkpoint a --format gguf", "choose a name that ends in .gguf"),
        ("--out new.gguf --checkpoint a --format pt", "--format is for a folder"),
        ("--out new.gguf --checkpoint a --dtype bfloat16", "choose one of float32, float16, q8_0"),
        ("--out new --checkpoint a --dtype q8_0", "choose one of float32, bfloat16"),
        ("--out new.pt --checkpoint a --dtype float16", "choose one of float32, bfloat16"),
    ],
)
def test_mistakes_with_gguf(convert, tiny, byte, inside, flags, message):
    save_checkpoint("a", tiny(), byte)
    save_checkpoint("a.gguf", tiny(), byte)
    for name in ("a/m.gguf", "a/n.Modelfile"):
        (inside / name).write_text("theirs")
    before = content(inside)
    assert message in convert(*flags.split()) and content(inside) == before
