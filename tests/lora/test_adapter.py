import copy
import json
import re
from pathlib import Path

import pytest
import torch
from adapters import SHAPE, TOKENS, Saved, fill, ids_of, peft_logits, saved, settings

from nanogpt.checkpoint.folder import load_checkpoint, save_checkpoint
from nanogpt.checkpoint.identity import model_identity
from nanogpt.data.tokens.batches import Windows
from nanogpt.data.tokens.bins import Bin
from nanogpt.lora.adapter import find_base, load_adapter, open_adapted, save_adapter
from nanogpt.lora.attach import attach_adapter
from nanogpt.runtime.errors import BadSetting, UserError
from nanogpt.training.loop import train

LINEAR = {
    "base": ["c_attn", "c_proj", "c_fc"],
    "optimized": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
OTHERS = {"base": ["wte", "wpe", "lm_head"], "optimized": ["embed_tokens", "lm_head"]}


@pytest.fixture(scope="module", params=["base", "optimized"])
def plain(request, tmp_path_factory, tiny, byte) -> Saved:
    """An adapter on all linear modules of the blocks."""
    return saved(tmp_path_factory.mktemp(request.param), tiny(request.param, **SHAPE), byte)


def test_the_number_of_trainable_parameters(plain):
    """r (in + out) of every adapted matrix: by hand for width 16, half of it for keys and values, SwiGLU of 64."""
    C, r, layers, model = 16, 3, 2, plain.fresh()
    if model.config.arch == "base":
        per_layer = (C + 3 * C) + (C + C) + (C + 4 * C) + (4 * C + C)
    else:
        per_layer = (C + C) + 2 * (C + C // 2) + (C + C) + 3 * (C + 64)
    attach_adapter(model, settings(), 1)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trainable.values()) == layers * r * per_layer
    assert sum(tensor.numel() for tensor in plain.tensors().values()) == layers * r * per_layer
    leaves = {name.split(".lora_")[0].split(".")[-1] for name in trainable}
    assert leaves == set(LINEAR[model.config.arch])


def test_the_folder_is_peft_and_the_base(plain):
    files = {"SHA256SUMS", "adapter_config.json", "adapter_model.safetensors", "base.json"}
    assert {path.name for path in plain.adapter.iterdir()} == files
    config = json.loads((plain.adapter / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["task_type"]) == (3, 6.0, "CAUSAL_LM")
    assert config["base_model_name_or_path"] == "base"
    arch, base = plain.fresh().config.arch, json.loads((plain.adapter / "base.json").read_text())
    assert base == {"model_type": "gpt2" if arch == "base" else "llama", "sha256": model_identity(plain.base)}
    assert config["fan_in_fan_out"] == (arch == "base") and config["target_modules"] == sorted(LINEAR[arch])


def test_equal_adapters_give_equal_bytes(plain, tmp_path):
    save_adapter(open_adapted(plain.adapter)[0], tmp_path / "again", plain.base)
    for path in plain.adapter.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


@torch.no_grad()
def test_a_new_adapter_is_drawn_from_the_seed_and_changes_nothing_yet(tiny):
    def drawn(seed):
        model = tiny().eval()
        before, adapted = model(ids_of(model)), attach_adapter(model, settings(), seed)
        assert torch.equal(adapted(ids_of(model)), before)
        return torch.cat([p.flatten() for name, p in adapted.named_parameters() if "lora_A" in name])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


@pytest.mark.parametrize("arch", ["base", "optimized"])
def test_an_unknown_target_names_those_that_exist(tiny, arch):
    with pytest.raises(UserError, match=r"lora\.target_modules = .* has no module 'nowhere'; choose from ") as caught:
        attach_adapter(tiny(arch), settings(target_modules=[LINEAR[arch][0], "nowhere"]), 1)
    assert all(name in str(caught.value) for name in (*LINEAR[arch], *OTHERS[arch]))


@pytest.mark.parametrize(("arch", "end"), [("base", "wte"), ("base", "lm_head"), ("optimized", "embed_tokens")])
def test_an_end_that_shares_its_weights_is_no_target(tiny, arch, end):
    with pytest.raises(BadSetting, match=rf"target_modules.*: {end} shares its weights with .*; write all, which"):
        attach_adapter(tiny(arch, tie_embeddings=True), settings(target_modules=[end]), 1)


def test_another_architecture_or_shape(plain, tiny):
    arch = plain.fresh().config.arch
    other = "optimized" if arch == "base" else "base"
    with pytest.raises(UserError, match=rf"adapter for the other architecture than the {other} model .* on base \("):
        load_adapter(plain.adapter, tiny(other, **SHAPE))
    model = tiny(arch, **SHAPE | {"n_embd": 32})
    with pytest.raises(UserError, match=r"this model.* was trained on base \([0-9a-f]{12}\)$"):
        load_adapter(plain.adapter, model)
    assert not [name for name, _ in model.named_modules() if "lora" in name]  # left as it was


@pytest.mark.parametrize(
    ("tied", "targets"), [(True, "all"), (False, "all"), (False, "all-linear"), (False, "lm_head")]
)
@pytest.mark.parametrize("arch", ["base", "optimized"])
@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
def test_every_kind_is_the_same_when_loaded_merged_and_in_peft(tiny, byte, tmp_path, kind, arch, tied, targets):
    targets = targets if targets.startswith("all") else [targets]
    done = saved(tmp_path, tiny(arch, tie_embeddings=tied), byte, kind=kind, target_modules=targets)
    with torch.no_grad():
        assert (done.fresh()(done.ids) - done.logits).abs().max() > 0.1
        adapted, tok = open_adapted(done.adapter)
        torch.testing.assert_close(adapted(done.ids), done.logits, rtol=0, atol=5e-6)
    assert tok.sha256 == byte.sha256
    assert not adapted.training and not any(p.requires_grad for p in adapted.parameters())
    for logits in peft_logits(done):
        torch.testing.assert_close(logits, done.logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("arch", ["base", "optimized"])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_the_adapter_learns_and_the_base_does_not(tiny, byte, write_bins, tmp_path, training, kind, arch):
    model = tiny(arch, **SHAPE)
    before = copy.deepcopy(model.state_dict())
    lora = settings(kind=kind, target_modules="all")
    attach_adapter(model, lora, 1, TOKENS)
    windows = Windows(Bin.open(write_bins(tmp_path / "data", byte), "train", byte), 16, 1)
    losses = train(model, windows, windows, lora.training(training()), 1).train_losses
    assert losses[-1] < losses[0] - 0.2
    for name, tensor in model.state_dict().items():
        if "lora_B" in name:
            assert tensor.abs().max() > 0, name
        elif name.endswith("trainable_tokens_delta.default"):
            assert not torch.equal(tensor, before[name.split(".token_adapter")[0] + ".weight"][TOKENS]), name
        elif "lora_" not in name and "trainable_tokens" not in name:
            assert torch.equal(tensor, before[re.sub(r"(\.token_adapter)?\.base_layer\.", ".", name)]), name


def test_muon_alone_trains_an_adapter_of_blocks(tiny, byte, write_bins, tmp_path, training):
    lora = settings(target_modules="all-linear", optimizer="muon")
    model = tiny("base", **SHAPE)
    attach_adapter(model, lora, 1)
    windows = Windows(Bin.open(write_bins(tmp_path / "data", byte), "train", byte), 16, 1)
    losses = train(model, windows, windows, lora.training(training()), 1).train_losses
    assert losses[-1] < losses[0] - 0.05


def test_a_rank_above_the_width(tiny):
    with pytest.raises(BadSetting, match=r"lora\.r = 17: above the model's width of 16; choose"):
        attach_adapter(tiny(), settings(r=17), 1)


@torch.no_grad()
def test_the_base_is_identified_by_its_content(plain, tmp_path):
    base, done = tmp_path / "base.pt", plain
    save_checkpoint(base, *load_checkpoint(done.base))
    save_adapter(open_adapted(done.adapter, done.base)[0], tmp_path / "adapter", base)
    torch.testing.assert_close(open_adapted(tmp_path / "adapter")[0](done.ids), done.logits, rtol=0, atol=5e-6)
    mine, wrong = model_identity(base)[:12], model_identity(done.base)[:12]  # the same weights in other bytes
    message = rf"adapter was trained on base\.pt \({mine}\), and {done.base} is another model \({wrong}\)"
    with pytest.raises(UserError, match=message):
        open_adapted(tmp_path / "adapter", done.base)


def test_an_adapter_names_its_base_by_the_path_in_the_project(plain, tmp_path, monkeypatch):
    adapted, tok = open_adapted(plain.adapter)
    (tmp_path / "models").mkdir()
    save_checkpoint(tmp_path / "models" / "pretrain", plain.fresh(), tok)
    monkeypatch.chdir(tmp_path)
    for base in ("models/pretrain", "./models/../models/pretrain", tmp_path / "models" / "pretrain"):
        save_adapter(adapted, tmp_path / "runs" / "lora", base)
        config = json.loads((tmp_path / "runs" / "lora" / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == "models/pretrain"
    assert find_base("runs/lora") == Path("models/pretrain")
    save_adapter(adapted, tmp_path / "models" / "lora", "models/pretrain")
    monkeypatch.chdir("/")  # from elsewhere it is found beside the adapter
    assert find_base(tmp_path / "models" / "lora") == tmp_path / "models" / "pretrain"
    with pytest.raises(UserError, match=r"was trained on models/pretrain \(.*\), which is not here; name it with"):
        find_base(tmp_path / "runs" / "lora")


def test_an_adapter_that_peft_trained_elsewhere(tiny, byte, tmp_path):
    """It has no base.json: its base must be named, and then fits or not."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    done = saved(tmp_path, tiny("base"), byte)
    config = LoraConfig(
        r=2, target_modules=["attn.c_attn", "wte"], use_rslora=True, task_type="CAUSAL_LM", fan_in_fan_out=True
    )
    foreign = fill(get_peft_model(AutoModelForCausalLM.from_pretrained(done.base), config))
    foreign.save_pretrained(tmp_path / "foreign", save_embedding_layers=False)
    with torch.no_grad():
        wanted = foreign(done.ids).logits
        found = open_adapted(tmp_path / "foreign", done.base)[0](done.ids)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    with pytest.raises(UserError, match=r"foreign does not say which model it belongs to; name it with"):
        open_adapted(tmp_path / "foreign")


def test_training_takes_its_own_figures_and_the_rest_from_train(training):
    given = training(max_steps=500, batch_size=64, lr=0.5, grad_clip=0.7)
    found = settings().training(given)
    assert (found.max_steps, found.batch_size, found.lr, found.min_lr, found.warmup_steps) == (12, 4, 0.02, 0.002, 2)
    assert (found.grad_clip, found.beta2, found.dtype) == (0.7, 0.98, "float32")


@pytest.mark.parametrize(("key", "value"), [("r", 0), ("min_lr", -0.1), ("warmup_steps", 12)])
def test_wrong_settings_are_named_when_they_are_read(key, value):
    with pytest.raises(BadSetting) as caught:
        settings(**{key: value})
    assert (caught.value.key, caught.value.value) == (key, value)
