"""Checkpoints that others wrote: the logits are those of the program that wrote them."""

import json

import pytest
import torch
import transformers
from foreign_models import ARGS, gpt2, nanogpt_checkpoint, same_logits
from model_folders import edit
from safetensors.torch import load_file, save_file

from nanogpt.checkpoint.folder import load_checkpoint, load_model, save_checkpoint
from nanogpt.runtime.errors import UserError


@pytest.mark.parametrize(("bias", "prefix", "masks"), [(True, "", True), (False, "_orig_mod.", False)])
def test_nanogpt(tmp_path, bias, prefix, masks):
    theirs = nanogpt_checkpoint(tmp_path / "ckpt.pt", bias, prefix, masks)
    with pytest.raises(UserError, match=r"ckpt\.pt holds no tokenizer.* stages\.convert .* --tokenizer FOLDER"):
        load_checkpoint(tmp_path / "ckpt.pt")
    ours = load_model(tmp_path / "ckpt.pt")
    same_logits(ours, theirs)
    assert ours.config.activation == "gelu" and ours.config.dropout == 0.1 and not ours.training
    assert ours.lm_head.weight is ours.transformer.wte.weight


def test_damaged_checkpoints_of_nanogpt(tmp_path):
    path = tmp_path / "ckpt.pt"
    nanogpt_checkpoint(path, bias=True)
    good = torch.load(path, weights_only=True)
    name = "transformer.h.1.mlp.c_fc.bias"
    less = {n: t for n, t in good["model"].items() if n != name}
    for bad, match in (
        ({"model": less}, rf"the weight {name} is missing"),
        ({"model": good["model"] | {name: torch.ones(5)}}, rf"the weight {name} has shape \(5,\)"),
        ({"model": good["model"] | {"lm_head.weight": torch.ones(320, 32)}}, r"lm_head\.weight and .* differ"),
        ({"model": {}}, r"0 layers"),
        ({"model_args": None}, r"model_args"),
        ({"model_args": ARGS | {"n_layer": 10**9}}, r"n_layer is 1000000000"),
        ({"model_args": ARGS | {"n_head": 3}}, r"3 heads do not divide it"),
    ):
        torch.save(good | bad, path)
        with pytest.raises(UserError, match=match) as caught:
            load_model(path)
        assert str(path) in str(caught.value)


def llama(name="Llama", **changed):
    torch.manual_seed(0)
    shape = {
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32,
        "intermediate_size": 48, "max_position_embeddings": 64, "vocab_size": 300, "initializer_range": 0.3,
    }  # fmt: skip
    config = getattr(transformers, f"{name}Config")(**shape | changed)
    return getattr(transformers, f"{name}ForCausalLM")(config)


def qwen3(**changed):
    return llama("Qwen3", **{"head_dim": 8} | changed)


MODELS = {
    "gpt2": (gpt2, {}),
    "gpt2-gelu": (gpt2, {"activation_function": "gelu"}),
    "gpt2-inner": (gpt2, {"n_inner": 50, "layer_norm_epsilon": 1e-3}),
    "gpt2-untied": (gpt2, {"tie_word_embeddings": False}),
    "llama": (llama, {}),
    "llama-tied": (llama, {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "llama-theta": (llama, {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "rms_norm_eps": 1e-2}),
    "qwen3": (qwen3, {}),
}


@pytest.fixture(params=MODELS)
def foreign(request, tmp_path):
    """A model of transformers and the folder it saved."""
    make, changed = MODELS[request.param]
    model = make(**changed)
    model.save_pretrained(tmp_path / "theirs")
    return model, tmp_path / "theirs"


def test_folders_of_transformers(foreign, byte, tmp_path):
    theirs, folder = foreign
    ours = load_model(folder)
    same_logits(ours, theirs)
    save_checkpoint(tmp_path / "ours", ours, byte)
    again, _ = load_checkpoint(tmp_path / "ours")
    assert again.config == ours.config
    same_logits(ours, type(theirs).from_pretrained(tmp_path / "ours"))


def test_a_width_that_is_the_default_is_none_of_its_own(tmp_path):
    for n_inner, expected in ((128, None), (96, 96)):  # four times 32, and three times
        gpt2(n_inner=n_inner).save_pretrained(tmp_path / str(n_inner))
        assert load_model(tmp_path / str(n_inner)).config.mlp_hidden == expected


def test_folders_in_several_files(foreign, tmp_path):
    theirs, _ = foreign
    theirs.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    index = tmp_path / "parts" / "model.safetensors.index.json"
    parts = sorted((tmp_path / "parts").glob("model-*.safetensors"))
    assert index.is_file() and len(parts) > 2
    same_logits(load_model(tmp_path / "parts"), theirs)
    places = json.loads(index.read_text())
    for bad, match in (
        ("../theirs/model.safetensors", "is not the name of a safetensors file beside it"),
        ("model-9.safetensors", "lacks model-9.safetensors"),
        (3, "is damaged|is not the name"),
    ):
        index.write_text(json.dumps(places | {"weight_map": places["weight_map"] | {"x": bad}}))
        with pytest.raises(UserError, match=match):
            load_model(tmp_path / "parts")
    index.write_text(json.dumps(places))
    parts[1].write_bytes(parts[0].read_bytes())
    with pytest.raises(UserError, match="is in two files"):
        load_model(tmp_path / "parts")


def test_gpt2_as_openai_published_it(tmp_path):
    """Names of the bare model, masks among the weights, a short config: as in the repository openai-community/gpt2."""
    theirs = gpt2()
    theirs.save_pretrained(tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    weights = {name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}
    for layer in range(2):
        weights[f"h.{layer}.attn.bias"] = torch.ones(24, 24).tril().view(1, 1, 24, 24)
        weights[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(weights, file)
    later = {"add_cross_attention", "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "tie_word_embeddings"}
    edit(tmp_path / "m", **dict.fromkeys({"n_inner", *later}, "(deleted)"))
    same_logits(load_model(tmp_path / "m"), theirs)


def test_llama_as_transformers_4_wrote_it(tmp_path):
    theirs = llama(rope_parameters={"rope_type": "default", "rope_theta": 500.0}, rms_norm_eps=1e-6)
    theirs.save_pretrained(tmp_path / "m")
    edit(tmp_path / "m", rope_parameters="(deleted)", rope_theta=500.0, rope_scaling=None, rms_norm_eps="(deleted)")
    same_logits(load_model(tmp_path / "m"), theirs)
    file = tmp_path / "m" / "model.safetensors"
    table = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(4) for layer in range(2)}
    save_file(load_file(file) | table, file)
    same_logits(load_model(tmp_path / "m"), theirs)


YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0}


@pytest.mark.parametrize(
    ("make", "changed"),
    [
        (gpt2, {"activation_function": "relu"}),
        (gpt2, {"scale_attn_weights": False}),
        (llama, {"hidden_act": "gelu"}),
        (llama, {"head_dim": 16}),
        (qwen3, {"head_dim": "(deleted)"}),
        (qwen3, {"use_sliding_window": True}),
        (llama, {"rope_parameters": YARN}),
        (llama, {"rope_scaling": {"type": "linear", "factor": 2.0}}),
        (llama, {"rope_parameters": {"rope_type": ["default"]}}),
        (llama, {"rope_parameters": {"rope_type": "default", "rope_theta": "large"}}),
    ],
)
def test_models_that_compute_something_else(tmp_path, make, changed):
    make().save_pretrained(tmp_path / "m")
    edit(tmp_path / "m", **changed)
    name = "rope_theta" if "large" in str(changed) else next(iter(changed))
    with pytest.raises(UserError, match=rf"config\.json: {name} is .* and must be ") as caught:
        load_model(tmp_path / "m")
    assert "\n" not in str(caught.value)


def test_a_folder_whose_tokenizer_is_missing_or_another_kind(tmp_path):
    folder = tmp_path / "m"
    gpt2().save_pretrained(folder)
    with pytest.raises(UserError, match=r"tokenizer\.json.*--tokenizer FOLDER"):
        load_checkpoint(folder)
    (folder / "tokenizer.json").write_text('{"model": {"type": "Unigram"}}')
    with pytest.raises(UserError, match=r"tokenizer\.json.*--tokenizer FOLDER"):
        load_checkpoint(folder)
