import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from adapters import ids_of
from model_folders import content, edit, equal, refused
from safetensors.torch import load_file, save_file

from nanogpt.checkpoint.folder import load_checkpoint, read_card, save_checkpoint
from nanogpt.checkpoint.settings import CheckpointSettings
from nanogpt.runtime.errors import UserError

SHAPES = [
    {"arch": "base"},
    {"arch": "base", "tie_embeddings": True, "n_layer": 2},
    {"arch": "optimized", "n_head": 4, "n_kv_head": 2, "n_layer": 2},
    {"arch": "optimized", "n_head": 4, "n_kv_head": 1, "tie_embeddings": True},
    {"arch": "optimized", "n_head": 2, "n_kv_head": 2, "n_embd": 96},
]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "-".join(map(str, s.values())))


@shapes
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_transformers_computes_the_same_and_continues_a_text(tiny, byte, tmp_path, shape, dtype):
    """In bf16 the weights are rounded once, on the disk, and both read the same."""
    from transformers import AutoModelForCausalLM, pipeline

    path = tmp_path / "m"
    save_checkpoint(path, tiny(**shape), byte, CheckpointSettings("safetensors", dtype))
    model, _ = load_checkpoint(path)
    theirs, loading = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    assert not any(loading.values()), loading
    writer = pipeline("text-generation", model=str(path), dtype=torch.float32)
    ids = [65, 66]
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids_of(model)).logits, model(ids_of(model)), rtol=0, atol=1e-4)
        while len(ids) < 6 and ids[-1] != byte.eot:
            ids.append(model(torch.tensor([ids]))[0, -1].argmax().item())
    assert writer("AB", max_new_tokens=4, do_sample=False)[0]["generated_text"] == byte.decode(ids)
    assert AutoModelForCausalLM.from_pretrained(path).dtype == getattr(torch, dtype)


@shapes
@pytest.mark.parametrize("file_format", ["safetensors", "pt"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_round_trip_is_exact(tiny, byte, tmp_path, shape, dtype, file_format):
    """Equal models give equal bytes; in bf16 weights are rounded once; a .pt file is complete in itself."""
    model, new = tiny(**shape, dropout=0.1).train(), tmp_path / "new"
    for name in ("a", "b", "a.pt", "b.pt"):
        save_checkpoint(new / name, model, byte, CheckpointSettings(file_format, dtype), card="# A model\n")
    files, paths = content(new / "a"), ["a", "a.pt"]
    assert files == content(new / "b") and (new / "a.pt").read_bytes() == (new / "b.pt").read_bytes()
    assert files.keys() == {
        "README.md", "SHA256SUMS", "config.json", "generation_config.json", f"model.{file_format}", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    if file_format == "pt":
        assert files["model.pt"] == (new / "a.pt").read_bytes()
        paths.append("a/model.pt")
    rounded = model.to(getattr(torch, dtype)).float()
    for path in paths:
        loaded, tok = load_checkpoint(new / path)
        assert equal(loaded, rounded) and not loaded.training and tok.sha256 == byte.sha256
        tied = loaded.lm_head.weight is loaded.get_parameter(f"{loaded.hf.embedding}.weight")
        assert tied == shape.get("tie_embeddings", False)
        assert path == "a/model.pt" or read_card(new / path) == "# A model\n"


def test_only_weights_are_read_from_a_pt_file(tiny, byte, tmp_path):
    class Trap:
        def __init__(self, path: Path):
            self.path = path

        def __reduce__(self):
            return (os.mkdir, (str(self.path),))

    save_checkpoint(tmp_path / "good.pt", tiny(), byte)
    good = torch.load(tmp_path / "good.pt", weights_only=True)
    sprung = tmp_path / "sprung"
    good["tokenizer"] |= {str(sprung): "x"}  # a name that is a path
    torch.save(good, tmp_path / "good.pt")
    load_checkpoint(tmp_path / "good.pt")
    torch.save(good | {"config": Trap(sprung)}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match=r"bad\.pt is not a checkpoint of this project or is damaged"):
        load_checkpoint(tmp_path / "bad.pt")
    assert not sprung.exists()
    torch.load(tmp_path / "bad.pt", weights_only=False)  # the trap is a real one
    assert sprung.exists()


def test_damaged_pt_files(tiny, byte, tmp_path):
    path = tmp_path / "m.pt"
    with pytest.raises(UserError, match=r"m\.pt does not exist"):
        load_checkpoint(path)
    save_checkpoint(path, tiny(), byte)
    good = torch.load(path, weights_only=True)
    whole = path.read_bytes()
    raw = [b"", b"text", whole[: len(whole) // 2], whole[:-30], bytes(range(256)) * 8, b"\x80\x02}q\x00."]
    for bad in raw:
        path.write_bytes(bad)
        with pytest.raises(UserError, match=r"m\.pt is not a checkpoint of this project or is damaged"):
            load_checkpoint(path)
    weights = good["model"]
    for bad in (
        [1], 5, {}, good | {"model": 3}, good | {"model": {}}, good | {"model": dict.fromkeys(weights, 1)},
        good | {"model": weights | {"extra": torch.ones(1)}},
        good | {"tokenizer": []}, good | {"tokenizer": {}}, good | {"tokenizer": {"tokenizer.json": 3}},
        good | {"config": {}}, good | {"config": []}, good | {"config": {"model_type": "gpt2"}},
    ):  # fmt: skip
        torch.save(bad, path)
        with pytest.raises(UserError, match=r"m\.pt|tokenizer\.json"):
            load_checkpoint(path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file(folder, tmp_path, name):
    refused(tmp_path / "nowhere", r"is not a model folder: it has no config\.json; train one with")
    (folder / name).unlink()
    refused(folder, rf"{name.replace('.', '[.]')}")


def test_a_wrong_shape_a_missing_and_an_extra_tensor(folder):
    file = folder / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if name.endswith(("c_fc.weight", "up_proj.weight")))
    save_file(weights | {name: weights[name].T.contiguous()}, file)
    refused(folder, rf"the weight {name} has shape \(.*\), but the config says \(.*\)")
    save_file({n: t for n, t in weights.items() if n != name}, file)
    refused(folder, rf"the weight {name} is missing")
    save_file(weights | {"extra.bias": torch.ones(3)}, file)
    refused(folder, r"unknown weight extra\.bias")


def test_a_config_of_another_model(folder):
    key = "n_embd" if "n_embd" in (folder / "config.json").read_text() else "hidden_size"
    edit(folder, **{key: 24})
    refused(folder, r"the weight .* has shape")
    edit(folder, **{key: 17})
    refused(folder, r"config\.json: n_embd = 17: 2 heads do not divide it")
    edit(folder, **{key: "(deleted)"})
    refused(folder, rf"config\.json: {key} is None and must be a whole number")
    edit(folder, model_type="mixtral")
    refused(folder, r"the architecture 'mixtral' is not one of ours: gpt2, llama, qwen3")


def test_a_tokenizer_larger_than_the_model(tiny, byte, tmp_path):
    save_checkpoint(tmp_path / "m", tiny(vocab_size=64), byte)
    refused(tmp_path / "m", r"the tokenizer has 257 tokens and the model 64; they do not belong together")


@pytest.mark.parametrize("name", ["m", "m.pt"])
def test_an_error_while_saving_leaves_what_was_there(tiny, byte, tmp_path, name):
    class Full:
        eot, sha256 = byte.eot, byte.sha256

        def save(self, folder):
            byte.save(folder)
            raise OSError(28, "No space left on device")

    save_checkpoint(tmp_path / name, tiny(), byte)
    before = content(tmp_path)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(tmp_path / name, tiny(seed=1), Full())
    assert content(tmp_path) == before
    save_checkpoint(tmp_path / name, tiny(seed=1), byte)
    assert content(tmp_path) != before


def test_loading_imports_no_compiler(tiny, byte, tmp_path):
    """torch imports it for some operations on its meta device, and that takes a second."""
    save_checkpoint(tmp_path / "m", tiny(), byte)
    code = "import sys; from nanogpt.checkpoint.folder import load_checkpoint\n"
    code += "load_checkpoint('m'); assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_a_loaded_model_outlives_its_folder_and_draws_no_random_numbers(folder):
    state = torch.get_rng_state()
    model, _ = load_checkpoint(folder)
    assert torch.equal(torch.get_rng_state(), state)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    file = folder / "model.safetensors"
    file.write_bytes(bytes(file.stat().st_size))
    shutil.rmtree(folder)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
