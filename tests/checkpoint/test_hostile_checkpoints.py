"""Files from elsewhere that are damaged or meant to do harm: one message each, and nothing else happens."""

import json
import resource
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from model_folders import edit, equal, refused
from safetensors.torch import load_file, save_file

from nanogpt.checkpoint.folder import load_checkpoint, load_model, save_checkpoint
from nanogpt.runtime.errors import UserError


@pytest.fixture(autouse=True)
def neither_memory_nor_files(tmp_path):
    """Whatever a test here loads costs little and makes no file."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB
    assert {path.name for path in tmp_path.iterdir()} <= {"m", "m.pt", "outside", "store", "linked"}


def key(folder: Path, ours: str) -> str:
    """What the folder's config.json calls a setting of ours."""
    llama = {"n_layer": "num_hidden_layers", "n_embd": "hidden_size", "dropout": "attention_dropout"}
    llama["norm_eps"], gpt2 = "rms_norm_eps", {"dropout": "resid_pdrop", "norm_eps": "layer_norm_epsilon"}
    return (llama if "llama" in (folder / "config.json").read_text() else gpt2).get(ours, ours)


SIZE, RATE = r"must be a whole number from 1 to \d+; ", "must be a number from 0"


@pytest.mark.parametrize(
    ("ours", "value", "wanted"),
    [
        *((name, value, SIZE) for name in ("n_layer", "vocab_size") for value in (2**40, 0, True, 1.5, "1", [1])),
        *((name, value, RATE) for name in ("dropout", "norm_eps") for value in (-1, 2, "0.1", True, float("inf"))),
    ],
)
def test_values_that_no_model_has(folder, ours, value, wanted):
    edit(folder, **{key(folder, ours): value})
    refused(folder, rf"config\.json: {key(folder, ours)} is .* and {wanted}")


def test_large_sizes_that_the_weights_do_not_have(folder):
    """Within the bounds of a config, a model of half a terabyte: the weights' names and shapes say otherwise."""
    edit(folder, **{key(folder, "n_layer"): 1024})
    refused(folder, r"has weights of 1 layers, but the config says 1024")
    edit(folder, **{key(folder, "n_layer"): 1, key(folder, "n_embd"): 65536, "vocab_size": 2**24})
    refused(folder, r"has shape .*, but the config says \(16777216, 65536\)")


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "[" * 100_000, "9" * 10_000, " " * 2**21 + "{}", '{"model_type": ["gpt2"]}', "\ud800"]
)
def test_a_config_that_breaks_its_reader(folder, text):
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    refused(folder, r"config\.json")


def header(**entries) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


def entry(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<Q", 2**63) + b"{}",  # a header longer than any file
        header(a=entry(0, 16, [4], "EVIL")) + bytes(16),
        header(a=entry(0, 16, [4])) + bytes(8),  # truncated
        struct.pack("<Q", 200_000) + b"[" * 200_000,
        header(**{str(i): entry(0, 0, [0]) for i in range(100_000)}),  # names without end
        b"",
    ],
    ids=range(6),
)
def test_safetensors_headers_that_lie(folder, data):
    (folder / "model.safetensors").write_bytes(data)
    refused(folder, r"model\.safetensors is damaged \(")


def test_a_huge_file_is_refused_by_its_header(folder):
    """A sparse file of 4 GB, well formed: names and shapes are read, the rest is not."""
    with (folder / "model.safetensors").open("wb") as file:
        file.write(header(**{"transformer.h.0.x": entry(0, 2**32, [2**30])}))
        file.truncate(file.tell() + 2**32)
    refused(folder, r"layers, but the config says|is missing")


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32])
def test_weights_that_are_no_floats_of_a_model(folder, dtype):
    file = folder / "model.safetensors"
    weights = load_file(file)
    name = sorted(weights)[3]
    save_file(weights | {name: weights[name].to(dtype)}, file)
    refused(folder, rf"the weight {name} is of {dtype}; only float32, bfloat16, float16 can be read")


@pytest.mark.parametrize(("value", "dtype"), [("nan", torch.float16), ("-inf", torch.bfloat16)])
def test_weights_that_are_not_finite(folder, value, dtype):
    file = folder / "model.safetensors"
    weights = {name: tensor.to(dtype) for name, tensor in load_file(file).items()}
    save_file(weights, file)
    load_checkpoint(folder)
    name = sorted(weights)[-1]
    weights[name].view(-1)[-1] = float(value)
    save_file(weights, file)
    refused(folder, rf"the weight {name} has values that are not finite")


@pytest.mark.parametrize("name", ["config.json", "README.md"])
def test_a_link_that_leads_outside(folder, tmp_path, name):
    (folder / "README.md").write_text("a card")
    (folder / name).rename(tmp_path / "outside")
    (folder / name).symlink_to(tmp_path / "outside")
    refused(folder, rf"{name.replace('.', '[.]')} is a link out of its folder, to .*outside")
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    refused(folder, r"is a link out of its folder, to /dev/zero")


@pytest.mark.parametrize(
    "place", ["files/md5/ab/" + "0" * 30, "blobs/" + "0" * 40, "blobs/" + "0" * 64], ids=["dvc", "git", "sha256"]
)
def test_links_into_a_store_by_content_are_followed(folder, tmp_path, place):
    """DVC with cache.type symlink, and the cache of the Hugging Face hub, look like this."""
    model = load_checkpoint(folder)[0]
    kept = tmp_path / "store" / place
    kept.parent.mkdir(parents=True)
    (folder / "model.safetensors").rename(kept)
    (folder / "model.safetensors").symlink_to(kept)
    assert equal(load_checkpoint(folder)[0], model)
    (folder / "tokenizer.json").rename(folder / "kept.json")
    (folder / "tokenizer.json").symlink_to("kept.json")  # within the folder
    (tmp_path / "linked").symlink_to(folder)  # a link to the folder itself
    assert equal(load_checkpoint(tmp_path / "linked")[0], model)


@pytest.fixture
def good(tiny, byte, tmp_path) -> dict:
    """What the sound file m.pt holds."""
    save_checkpoint(tmp_path / "m.pt", tiny(), byte)
    return torch.load(tmp_path / "m.pt", weights_only=True)


def test_a_large_tensor_of_few_bytes(good, tmp_path):
    good["config"] |= {"vocab_size": 2**24, "n_embd": 65536}
    good["model"]["transformer.wte.weight"] = torch.zeros(1).expand(2**24, 65536)
    torch.save(good, tmp_path / "m.pt")
    refused(tmp_path / "m.pt", r"'transformer.wte.weight' is not a plain tensor")


def test_many_tensors_of_the_same_bytes(good, tmp_path):
    """A megabyte that every layer shares, and a config of a thousand layers."""
    shared = torch.zeros(2**18)
    good["model"] = {name: shared[: t.numel()].view(t.shape) for name, t in good["model"].items()}
    for layer in range(1, 1024):
        good["model"][f"transformer.h.{layer}.mlp.c_fc.weight"] = shared.view(512, 512)
    torch.save(good, tmp_path / "m.pt")
    refused(tmp_path / "m.pt", "its tensors overlap")


@pytest.mark.parametrize("bias", [False, True])
def test_shapes_without_a_byte(tmp_path, bias):
    args = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16, "vocab_size": 64, "bias": bias}
    weights = {"transformer.h.0.ln_1.weight": torch.zeros(2**50, 0)}
    torch.save({"model": weights, "model_args": args}, tmp_path / "m.pt")
    with pytest.raises(UserError, match=r"m\.pt: the weight .* is missing"):
        load_model(tmp_path / "m.pt")


def test_what_is_no_tensor(good, tmp_path):
    tensor = torch.zeros(320, 16)
    for other in (tensor.to_sparse(), tensor.to("meta"), [0.0]):
        good["model"]["transformer.wte.weight"] = other
        torch.save(good, tmp_path / "m.pt")
        refused(tmp_path / "m.pt", "wte.weight' is not a plain tensor|not a checkpoint")


def test_a_packed_file(good, tmp_path):
    """A hundred megabytes of zeros pack into little; torch itself never packs."""
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path) as parts:
        packed = {name: parts.read(name) for name in parts.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (packed | {"archive/data/99": bytes(10**8)}).items():
            archive.writestr(name, data)
    refused(path, r"m\.pt is not a checkpoint of this project or is damaged \(ValueError\)")
