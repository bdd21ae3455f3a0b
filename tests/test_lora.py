import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nanogpt import checkpoint, lora
from nanogpt.errors import BadSetting, UserError
from nanogpt.lora import LoraSettings, targets_of
from nanogpt.tokens import Bin, Windows
from nanogpt.train import train

LINEAR = {
    "base": ["c_attn", "c_proj", "c_fc"],
    "optimized": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
ENDS = {"base": ["c_attn", "wte", "wpe", "lm_head"], "optimized": ["q_proj", "embed_tokens", "lm_head"]}
SHAPE = {"n_layer": 2, "n_head": 2, "n_kv_head": 1, "n_embd": 16}


def settings(**changed) -> LoraSettings:
    values = {"r": 3, "alpha": 6.0, "dropout": 0.0, "target_modules": "all-linear", "max_steps": 12, "batch_size": 4}
    return LoraSettings(**values | {"lr": 0.02, "min_lr": 0.002, "warmup_steps": 2} | changed)


def ids_of(model, rows: int = 3) -> torch.Tensor:
    c = model.config
    return torch.randint(c.vocab_size, (rows, c.block_size), generator=torch.Generator().manual_seed(9))


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


class Trained:
    """A base folder, an adapter trained on it in memory, and the adapter's folder."""

    def __init__(self, folder: Path, model, byte, bins: Path, training, wanted):
        self.base, self.adapter = folder / "base", folder / "adapter"
        checkpoint.save(self.base, model, byte)
        self.before = weights(model)
        self.model, tok = checkpoint.load(self.base)
        own = settings(target_modules=wanted)
        self.adapted = lora.attach(self.model, own, 1)
        self.trainable = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        windows = Windows(Bin.open(bins, "train", tok), 16, 1)
        self.run = train(self.model, windows, windows, own.training(training()), 1)
        lora.save(self.adapted, self.adapter, self.base)
        with torch.no_grad():
            self.ids = ids_of(self.model)
            self.logits = self.adapted.eval()(self.ids)

    def fresh(self):
        return checkpoint.load(self.base)[0]

    def tensors(self) -> dict[str, torch.Tensor]:
        return load_file(self.adapter / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def bins(tmp_path_factory, byte, write_bins) -> Path:
    return write_bins(tmp_path_factory.mktemp("bins") / "data", byte)


def test_all_adds_the_head_and_the_embeddings(tiny):
    assert targets_of(tiny("base", **SHAPE), "all") == ["c_attn", "c_fc", "c_proj", "lm_head", "wpe", "wte"]
    assert {"lm_head", "embed_tokens", "q_proj", "down_proj"} < set(targets_of(tiny("optimized", **SHAPE), "all"))


def make(request, tmp_path_factory, tiny, byte, bins, training, wanted) -> Trained:
    folder = tmp_path_factory.mktemp(request.param)
    return Trained(folder, tiny(request.param, **SHAPE), byte, bins, training, wanted[request.param])


@pytest.fixture(scope="module", params=["base", "optimized"])
def plain(request, tmp_path_factory, tiny, byte, bins, training) -> Trained:
    """An adapter on all linear modules of the blocks."""
    wanted = dict.fromkeys(LINEAR, "all-linear")
    return make(request, tmp_path_factory, tiny, byte, bins, training, wanted)


@pytest.fixture(scope="module", params=["base", "optimized"])
def ends(request, tmp_path_factory, tiny, byte, bins, training) -> Trained:
    """An adapter on the embeddings and the head too."""
    return make(request, tmp_path_factory, tiny, byte, bins, training, ENDS)


@torch.no_grad()
def theirs(done: Trained) -> tuple[torch.Tensor, list[str]]:
    """Logits of the same adapter through transformers and PEFT alone, and what was warned of."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(done.base), done.adapter).eval()
    return model(done.ids).logits, [str(warning.message) for warning in caught]


def test_transformers_and_peft_compute_the_same(plain):
    logits, warned = theirs(plain)
    torch.testing.assert_close(logits, plain.logits, rtol=0, atol=1e-4)
    with torch.no_grad():  # and the adapter matters
        assert (plain.fresh()(plain.ids) - logits).abs().max() > 0.1
    assert not [text for text in warned if "fan_in_fan_out" in text or "adapter" in text]


def test_transformers_and_peft_compute_the_same_with_head_and_embeddings(ends):
    torch.testing.assert_close(theirs(ends)[0], ends.logits, rtol=0, atol=1e-4)


def learned_but_for_the_base(done: Trained) -> None:
    assert done.run.train_curve.train_loss.iloc[-1] < done.run.train_curve.train_loss.iloc[0] - 0.2
    base = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in done.model.state_dict().items()
        if "lora_" not in name
    }
    assert base.keys() == done.before.keys()
    for name, tensor in base.items():
        assert torch.equal(tensor, done.before[name]), name
    b = {name: tensor for name, tensor in done.tensors().items() if "lora_B" in name or "embedding_B" in name}
    assert b and all(tensor.abs().max() > 0 for tensor in b.values())


def test_the_adapter_learned_and_the_base_did_not(plain):
    learned_but_for_the_base(plain)


def test_head_and_embeddings_learned_and_the_base_did_not(ends):
    learned_but_for_the_base(ends)


@torch.no_grad()
def test_what_is_saved_loads_onto_a_fresh_base(plain):
    model = plain.fresh()
    adapted = lora.load(plain.adapter, model)
    torch.testing.assert_close(adapted(plain.ids), plain.logits, rtol=0, atol=1e-6)
    assert not adapted.training and not any(p.requires_grad for p in adapted.parameters())
    assert lora.base_of(plain.adapter) == plain.base


@torch.no_grad()
def test_head_and_embeddings_survive_saving_loading_and_merging(ends):
    adapted = lora.load(ends.adapter, ends.fresh())
    torch.testing.assert_close(adapted(ends.ids), ends.logits, rtol=0, atol=1e-6)
    merged, _ = lora.merge(adapted)
    torch.testing.assert_close(merged(ends.ids), ends.logits, rtol=0, atol=1e-4)
    changed = {name for name, tensor in merged.state_dict().items() if not torch.equal(tensor, ends.before[name])}
    assert {name.split(".")[-2] for name in changed} == set(ENDS[merged.config.arch])


@torch.no_grad()
def test_the_merged_model(plain, byte, tmp_path):
    merged, difference = lora.merge(lora.load(plain.adapter, plain.fresh()))
    torch.testing.assert_close(merged(plain.ids), plain.logits, rtol=0, atol=1e-4)
    assert difference.keys() == {"max_abs_logit_difference", "mean_abs_logit_difference", "loss_change_nats"}
    assert 0 <= difference["mean_abs_logit_difference"] <= difference["max_abs_logit_difference"] < 1e-4
    assert difference["loss_change_nats"] < 1e-5
    # a plain model: it saves, loads and is a Hugging Face model like any other
    assert merged.state_dict().keys() == plain.before.keys()
    checkpoint.save(tmp_path / "merged", merged, byte)
    torch.testing.assert_close(checkpoint.load(tmp_path / "merged")[0](plain.ids), plain.logits, rtol=0, atol=1e-4)


def test_merging_is_w_plus_alpha_over_r_b_a(plain):
    merged, _ = lora.merge(lora.load(plain.adapter, plain.fresh()))
    adapter, scale = plain.tensors(), 6.0 / 3
    adapted = 0
    for name, tensor in merged.state_dict().items():
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        expected = plain.before[name]
        if f"{prefix}.lora_A.weight" in adapter:
            a, b = (adapter[f"{prefix}.lora_{x}.weight"] for x in "AB")
            assert (a.shape[0], b.shape[1]) == (3, 3)
            expected = (expected.double() + scale * b.double() @ a.double()).float()
            adapted += 1
            assert not torch.equal(tensor, plain.before[name])
        torch.testing.assert_close(tensor, expected, rtol=1e-6, atol=1e-6)
    assert adapted * 2 == len(adapter)


def test_the_number_of_trainable_parameters(plain):
    """r (in + out) of every adapted matrix: by hand for width 16, half of it for keys and values, SwiGLU of 64."""
    C, r, layers = 16, 3, 2
    if plain.model.config.arch == "base":
        per_layer = (C + 3 * C) + (C + C) + (C + 4 * C) + (4 * C + C)
    else:
        per_layer = (C + C) + 2 * (C + C // 2) + (C + C) + 3 * (C + 64)
    assert sum(p.numel() for p in plain.trainable.values()) == layers * r * per_layer
    assert sum(tensor.numel() for tensor in plain.tensors().values()) == layers * r * per_layer
    leaves = {name.split(".lora_")[0].split(".")[-1] for name in plain.trainable}
    assert leaves == set(LINEAR[plain.model.config.arch])


def test_the_folder_is_peft_and_nothing_else(plain):
    assert {path.name for path in plain.adapter.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    config = json.loads((plain.adapter / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["task_type"]) == (3, 6.0, "CAUSAL_LM")
    assert config["base_model_name_or_path"] == str(plain.base)
    assert config["fan_in_fan_out"] == (plain.model.config.arch == "base")
    assert sorted(config["target_modules"]) == sorted(LINEAR[plain.model.config.arch])


def test_equal_adapters_give_equal_bytes(plain, tmp_path):
    lora.save(plain.adapted, tmp_path / "again", plain.base)
    for path in plain.adapter.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_the_seed_draws_the_adapter(tiny):
    def drawn(seed):
        adapted = lora.attach(tiny(), settings(), seed)
        return torch.cat([p.flatten() for name, p in adapted.named_parameters() if "lora_A" in name])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


@torch.no_grad()
@pytest.mark.parametrize("arch", ["base", "optimized"])
def test_a_new_adapter_changes_nothing_yet(tiny, arch):
    model = tiny(arch).eval()
    ids = ids_of(model)
    before = model(ids)
    assert torch.equal(lora.attach(model, settings(), 1)(ids), before)


@pytest.mark.parametrize("arch", ["base", "optimized"])
def test_an_unknown_target_names_those_that_exist(tiny, arch):
    with pytest.raises(UserError, match=r"lora\.target_modules: .* has no module 'nowhere'; it has ") as caught:
        lora.attach(tiny(arch), settings(target_modules=[LINEAR[arch][0], "nowhere"]), 1)
    assert all(name in str(caught.value) for name in (*LINEAR[arch], *ENDS[arch]))
    other = LINEAR["optimized" if arch == "base" else "base"][0]
    with pytest.raises(UserError, match=rf"{arch} has no module '{other}'"):
        lora.attach(tiny(arch), settings(target_modules=[other]), 1)


@pytest.mark.parametrize("targets", ["all", "all-linear"])
@pytest.mark.parametrize("arch", ["base", "optimized"])
def test_merging_parts_tied_ends_that_an_adapter_changes(tiny, byte, tmp_path, arch, targets):
    model = tiny(arch, tie_embeddings=True)
    adapted = lora.attach(model, settings(target_modules=targets), 1)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) / 10
    ids = torch.arange(8)[None]
    with torch.no_grad():
        before = adapted.eval()(ids)
    merged, _ = lora.merge(adapted)
    assert merged.config.tie_embeddings == (targets == "all-linear")
    checkpoint.save(tmp_path / "merged", merged, byte)
    again, _ = checkpoint.load(tmp_path / "merged")
    with torch.no_grad():
        torch.testing.assert_close(again(ids), before, atol=1e-4, rtol=0)


def test_the_other_architecture(plain, tiny):
    arch = plain.model.config.arch
    other = "optimized" if arch == "base" else "base"
    with pytest.raises(UserError, match=rf"adapter for the other architecture than the {other} model .* {plain.base}"):
        lora.load(plain.adapter, tiny(other, **SHAPE))


@pytest.mark.parametrize("changed", [{"n_embd": 32}, {"n_layer": 1}, {"n_layer": 3}], ids=str)
def test_another_shape(plain, tiny, changed):
    with pytest.raises(UserError, match=rf"does not fit this model \(.*\); it was trained on {plain.base}$"):
        lora.load(plain.adapter, tiny(plain.model.config.arch, **SHAPE | changed))


def test_folders_without_an_adapter(plain, tiny, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere", plain.base):
        for use in (lora.base_of, lambda folder: lora.load(folder, plain.fresh())):
            with pytest.raises(UserError, match=r"holds no adapter \(no adapter_config\.json\)"):
                use(folder)


def copy(plain: Trained, folder: Path, **changed) -> Path:
    folder.mkdir(parents=True)
    for path in plain.adapter.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "adapter_config.json").read_text()) | changed
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_damaged_adapters(plain, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = copy(plain, tmp_path / "a")
    lora.load(folder, plain.fresh())
    weights_file = folder / "adapter_model.safetensors"
    whole = weights_file.read_bytes()
    weights_file.write_bytes(whole[:-10])
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is damaged"):
        lora.load(folder, plain.fresh())
    tensors = plain.tensors()
    save_file(dict(list(tensors.items())[1:]), weights_file)
    with pytest.raises(UserError, match=r"does not fit this model \(.* is on one side only\)"):
        lora.load(folder, plain.fresh())
    weights_file.unlink()
    with pytest.raises(UserError, match=r"has no adapter_model\.safetensors"):
        lora.load(folder, plain.fresh())
    for text in ("", "{", "[]", "3"):
        (folder / "adapter_config.json").write_text(text)
        with pytest.raises(UserError, match=r"adapter_config\.json is damaged"):
            lora.load(folder, plain.fresh())
    with pytest.raises(UserError, match=r"of the kind .*IA3"):
        lora.load(copy(plain, tmp_path / "b", peft_type="IA3"), plain.fresh())
    with pytest.raises(UserError, match=r"does not name its model; name it with --base-checkpoint"):
        lora.base_of(copy(plain, tmp_path / "c", base_model_name_or_path=None))


def test_a_merge_that_changes_the_model_is_refused(plain):
    adapted = lora.load(plain.adapter, plain.fresh())
    for module in adapted.modules():
        if hasattr(module, "lora_A"):  # something that merging cannot know of
            module.lora_B["default"].register_forward_hook(lambda _, __, out: out + torch.linspace(0, 1, out.size(-1)))
    with pytest.raises(UserError, match=r"merging moved the loss by .* nats; nothing was written"):
        lora.merge(adapted)


def test_merging_is_done_without_dropout(plain):
    model = plain.fresh()
    adapted = lora.attach(model, settings(dropout=0.9), 1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    assert lora.merge(adapted.train())[1]["loss_change_nats"] < 1e-4


def test_a_mistake_while_saving_leaves_the_old_adapter(plain, tmp_path):
    folder = copy(plain, tmp_path / "a")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    class Unwritable:
        def __str__(self):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        lora.save(plain.adapted, folder, Unwritable())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_training_takes_its_own_figures_and_the_rest_from_train(training):
    given = training(max_steps=500, batch_size=64, lr=0.5, grad_clip=0.7)
    found = settings().training(given)
    assert (found.max_steps, found.batch_size, found.lr, found.min_lr, found.warmup_steps) == (12, 4, 0.02, 0.002, 2)
    assert (found.grad_clip, found.beta2, found.dtype) == (0.7, 0.98, "float32")


@pytest.mark.parametrize(
    ("key", "value"),
    [("r", 0), ("alpha", 0.0), ("dropout", 1.0), ("target_modules", []), ("max_steps", 0), ("batch_size", 0),
     ("lr", 0.0), ("min_lr", 0.5), ("warmup_steps", 12)],
)  # fmt: skip
def test_wrong_settings_are_named_when_they_are_read(key, value):
    with pytest.raises(BadSetting) as caught:
        settings(**{key: value})
    assert (caught.value.key, caught.value.value) == (key, value)
