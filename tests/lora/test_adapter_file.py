"""Hostile and damaged adapters, each a real folder: one message, and the model as it was."""

import json
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from adapters import copy_adapter, saved
from safetensors.torch import save_file

from nanogpt.lora.adapter import find_base, load_adapter
from nanogpt.lora.adapter_file import read_adapter
from nanogpt.runtime.errors import UserError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture(scope="module")
def done(tmp_path_factory, tiny, byte):
    return saved(tmp_path_factory.mktemp("done"), tiny("base"), byte, target_modules="all")


@pytest.fixture
def refused(done):
    """Try to load a folder: it must be refused with this message, the model untouched."""
    model = done.fresh()
    names = [name for name, _ in model.named_modules()]

    def check(folder: Path, message: str) -> None:
        with pytest.raises(UserError, match=message) as caught:
            load_adapter(folder, model)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
        assert [name for name, _ in model.named_modules()] == names
        assert all(torch.equal(tensor, done.before[name]) for name, tensor in model.state_dict().items())

    return check


def test_folders_without_an_adapter(done, refused, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere", done.base):
        refused(folder, r"holds no adapter \(no adapter_config\.json\); train one with")
        with pytest.raises(UserError, match="holds no adapter"):
            find_base(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("[]", "not a JSON object"),
        ("[" * 100_000, "recursion"),
        ('{"r": "' + "x" * (1 << 22) + '"}', "larger than 4194304 bytes"),
    ],
    ids=["empty", "list", "deep", "long"],
)
def test_a_config_that_is_no_json(done, refused, tmp_path, text, message):
    folder = copy_adapter(done.adapter, tmp_path / "a")
    (folder / CONFIG).write_text(text)
    refused(folder, rf"{folder}/adapter_config\.json is damaged \(.*{message}.*\); train the adapter again")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"peft_type": "IA3"}, "an adapter of the kind 'IA3', not LoRA"),
        ({"auto_mapping": {"base_model_class": "system", "parent_library": "os"}}, "'auto_mapping' = .* is more than"),
        ({"layer_replication": [[0, 100_000]]}, "layer_replication"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa' is not supported"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"task_type": "SEQ_CLS"}, "task_type = 'SEQ_CLS'"),
        ({"r": 0}, "r = 0"),
        ({"r": True}, "r = True"),
        ({"r": 10**12}, "rank of 1000000000000 is above the model's width of 16"),
        ({"r": 4}, r"has the shape \(3, .*needs \(4, "),
        ({"lora_alpha": float("nan")}, "lora_alpha = nan"),
        ({"lora_alpha": -1.0}, "lora_alpha = -1.0"),
        ({"lora_dropout": 1.5}, "lora_dropout = 1.5"),
        ({"use_dora": "yes"}, "use_dora = 'yes'"),
        ({"use_dora": True}, "magnitude_vector' is missing for this model"),
        ({"target_modules": ["nowhere"]}, "this model has no module 'nowhere'"),
        ({"target_modules": ["h"]}, "this model has no module 'h'"),
        ({"target_modules": "(a+)+$"}, "target_modules"),
        ({"target_modules": [3]}, r"target_modules = \[3\]"),
        ({"trainable_token_indices": [3]}, r"trainable_token_indices = \[3\]"),
        ({"trainable_token_indices": {"wte": [3, 3]}}, "trainable_token_indices = "),
        ({"trainable_token_indices": {"wte": [-1]}}, "trainable_token_indices = "),
        ({"trainable_token_indices": {"wte": [9**9]}}, "an embedding for token 387420489, and the model has"),
        ({"trainable_token_indices": {"c_attn": [3]}}, "no embeddings of its own in 'c_attn'"),
        ({"base_model_name_or_path": ["/"]}, "base_model_name_or_path"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
def test_a_config_that_asks_for_more(done, refused, tmp_path, changed, message):
    refused(copy_adapter(done.adapter, tmp_path / "a", **changed), message)


@pytest.mark.parametrize("content", [b"", struct.pack("<Q", 1 << 62) + b"{}"], ids=["empty", "huge"])
def test_a_hostile_header(done, refused, tmp_path, content):
    folder = copy_adapter(done.adapter, tmp_path / "a")
    (folder / WEIGHTS).write_bytes(content)
    refused(folder, rf"{folder}/adapter_model\.safetensors is damaged \(.*\); train the adapter again")


def test_a_config_without_newer_keys(done, tmp_path):
    """Older versions of PEFT know LoRA alone."""
    folder = copy_adapter(done.adapter, tmp_path / "a")
    config = json.loads((folder / CONFIG).read_text())
    old = {key: value for key, value in config.items() if key not in ("use_rslora", "use_dora")}
    (folder / CONFIG).write_text(json.dumps(old))
    assert read_adapter(folder) == read_adapter(done.adapter)


def test_damaged_weights(done, refused, tmp_path):
    folder = copy_adapter(done.adapter, tmp_path / "a")
    file, tensors = folder / WEIGHTS, done.tensors()
    whole, name = file.read_bytes(), min(tensors)
    load_adapter(folder, done.fresh())
    file.write_bytes(whole[:-10])
    refused(folder, "is damaged")
    file.write_bytes(whole + b"\0" * (1 << 21))
    refused(folder, "is damaged")
    for changed, message in (
        ({key: tensor for key, tensor in tensors.items() if key != name}, f"'{name}' is missing for this model"),
        (tensors | {"base_model.model.extra": torch.zeros(1)}, "'base_model.model.extra' is not for this model"),
        (tensors | {name: tensors[name][:-1].clone()}, rf"{name} has the shape \(.*\), and this model needs \("),
        (tensors | {name: tensors[name].long()}, f"{name} is of the type I64, not floating point"),
        (tensors | {name: tensors[name] * float("nan")}, f"{name} holds NaN or infinity"),
    ):
        save_file(changed, file)
        refused(folder, message + rf".* was trained on base \({read_adapter(folder).sha256[:12]}\)$")


def test_long_names_are_cut_short(done, refused, tmp_path):
    folder = copy_adapter(done.adapter, tmp_path / "a", base_model_name_or_path="x\ny" * 300)
    save_file(done.tensors() | {"a\nb" * 1000: torch.zeros(1)}, folder / WEIGHTS)
    refused(folder, "(is not|is missing) for this model")
    refused(
        copy_adapter(done.adapter, tmp_path / "c", base_model_name_or_path="x" * 5000), "base_model_name_or_path = "
    )
    refused(copy_adapter(done.adapter, tmp_path / "b", **{"a\nb" * 1000: "c\nd" * 1000}), "is more than LoRA")


@torch.no_grad()
def test_weights_in_half_the_size_load(done, tmp_path):
    folder = copy_adapter(done.adapter, tmp_path / "a")
    save_file({name: tensor.bfloat16() for name, tensor in done.tensors().items()}, folder / WEIGHTS)
    adapted = load_adapter(folder, done.fresh())
    assert {parameter.dtype for parameter in adapted.parameters()} == {torch.float32}
    assert 0 < (adapted(done.ids) - done.logits).abs().max() < 0.2


class Trap:
    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_a_pickle_is_never_opened(done, refused, tmp_path):
    folder = copy_adapter(done.adapter, tmp_path / "a")
    (folder / WEIGHTS).unlink()
    refused(folder, r"has no adapter_model\.safetensors; train the adapter again")
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    refused(folder, r"has its weights in adapter_model\.bin, a pickle, which can run code; save them as")
    (folder / WEIGHTS).write_bytes((folder / "adapter_model.bin").read_bytes())
    refused(folder, r"adapter_model\.safetensors is damaged")
    assert not (tmp_path / "sprung").exists()


def test_links_that_lead_out_of_the_folder(done, refused, tmp_path):
    folder = copy_adapter(done.adapter, tmp_path / "a")
    (folder / WEIGHTS).rename(tmp_path / "outside")
    (folder / WEIGHTS).symlink_to(tmp_path / "outside")
    refused(folder, rf"{folder}/{WEIGHTS} is a link out of its folder, to {tmp_path}/outside")


def test_a_pipe_is_not_waited_for(done, refused, tmp_path):
    for name in (CONFIG, WEIGHTS, "base.json"):
        folder = copy_adapter(done.adapter, tmp_path / name)
        (folder / name).unlink()
        os.mkfifo(folder / name)
        refused(folder, r"holds no adapter|has no adapter_model|is not a file")


@pytest.mark.parametrize("name", ["pipe", "pipe.pt"])
def test_a_named_base_is_not_opened_unless_it_is_a_model(done, tmp_path, monkeypatch, name):
    """A pipe would be waited for without end, and a device read without end."""
    monkeypatch.chdir(tmp_path)
    folder = copy_adapter(done.adapter, tmp_path / "adapters" / "a", base_model_name_or_path=name)
    os.mkfifo(name)
    with pytest.raises(UserError, match="is not here; name it with"):
        find_base(folder)


@pytest.mark.parametrize("text", ["", "{}", '{"sha256": "abc", "model_type": "gpt2"}'])
def test_a_damaged_base_json(done, refused, tmp_path, text):
    """It is not passed over: that would let an adapter onto any base."""
    folder = copy_adapter(done.adapter, tmp_path / "a")
    (folder / "base.json").write_text(text)
    refused(folder, r"base\.json is damaged \(.*\); train the adapter again")
