"""Model folders in and out: what we write is a Hugging Face model, weights in safetensors.

Parameter names are those of GPT2LMHeadModel and LlamaForCausalLM throughout. The one difference
in layout, GPT-2's transposed projections (Conv1D), is settled here, at the file's edge. A `.pt`
file holds the same things in one file.
"""

import io
import json
import pickle
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from nanogpt import atomic, tokenizer
from nanogpt.errors import BadSetting, UserError
from nanogpt.model import ModelConfig, build, mlp_width
from nanogpt.tokenizer import Tokenizer

_TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
# what our models do not vary: a folder that says otherwise is another model, even if its weights fit
_FIXED = (
    "activation_function", "layer_norm_epsilon", "intermediate_size", "hidden_act", "rms_norm_eps", "rope_parameters",
)  # fmt: skip


def save(path: Path | str, model: nn.Module, tok: Tokenizer) -> None:
    """Write a model folder, or one file where the name ends in .pt; all of it or nothing."""
    path = Path(path)
    config, state = hf_config(model.config, tok.eot), _to_file(model)
    if path.suffix == ".pt":
        _save_pt(path, config, state, tok)
        return
    with atomic.folder(path) as folder:
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        generation = {"bos_token_id": tok.eot, "eos_token_id": tok.eot, "pad_token_id": tok.eot}
        (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        tok.save(folder)


def load(path: Path | str) -> tuple[nn.Module, Tokenizer]:
    """The model (fp32, on the CPU, in eval mode) and tokenizer of a model folder or .pt file.

    Raises UserError for what is missing, damaged or of an architecture that is not ours.
    """
    path = Path(path)
    if path.suffix == ".pt":
        config, state, tok = _load_pt(path)
    else:
        config, state = read_config(path), _read_weights(path)
        tok = tokenizer.load(path)
    if tok.n_tokens > config.vocab_size:
        raise UserError(
            f"{path}: the tokenizer has {tok.n_tokens} tokens and the model {config.vocab_size}; "
            "they do not belong together"
        )
    model = build(config)
    _fill(model, state, path)
    return model.eval(), tok


def read_config(folder: Path | str) -> ModelConfig:
    """The shape of the model in a folder. Raises UserError where it is not one of ours."""
    file = Path(folder) / "config.json"
    if not file.is_file():
        raise UserError(f"{folder} is not a model folder: it has no config.json; train one with `dvc repro pretrain`")
    try:
        hf = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged ({error}); write the folder again") from None
    return _model_config(hf, file)


def hf_config(config: ModelConfig, eot: int) -> dict:
    """config.json of the Hugging Face model that ours is: GPT-2 for base, Llama for optimized."""
    ends = {"bos_token_id": eot, "eos_token_id": eot, "tie_word_embeddings": config.tie_embeddings, "dtype": "float32"}
    if config.arch == "base":
        return {
            "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": config.vocab_size,
            "n_positions": config.block_size, "n_embd": config.n_embd, "n_layer": config.n_layer,
            "n_head": config.n_head, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
            "embd_pdrop": config.dropout, "attn_pdrop": config.dropout, "resid_pdrop": config.dropout, **ends,
        }  # fmt: skip
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": config.vocab_size,
        "max_position_embeddings": config.block_size, "hidden_size": config.n_embd,
        "num_hidden_layers": config.n_layer, "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head, "intermediate_size": mlp_width(config), "hidden_act": "silu",
        "rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "attention_bias": False, "mlp_bias": False, "attention_dropout": config.dropout, **ends,
    }  # fmt: skip


def _model_config(hf: dict, file: Path) -> ModelConfig:
    kind = hf.get("model_type") if isinstance(hf, dict) else None
    if kind not in ("gpt2", "llama"):
        raise UserError(f"{file}: the architecture {kind!r} is not one of ours; gpt2 (base) and llama (optimized) are")
    try:
        config = _from_hf(hf)
    except BadSetting as bad:
        raise UserError(f"{file}: {bad}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} is damaged or not a model's: {error!r}; write it again") from None
    ours = hf_config(config, eot=0)
    for key in _FIXED:
        if key in ours and hf.get(key, ours[key]) != ours[key]:
            raise UserError(f"{file}: {key} is {hf[key]!r}; in our models of this shape it is {ours[key]!r}")
    return config


def _from_hf(hf: dict) -> ModelConfig:
    if hf["model_type"] == "gpt2":
        return ModelConfig(
            arch="base", n_layer=hf["n_layer"], n_head=hf["n_head"], n_kv_head=hf["n_head"], n_embd=hf["n_embd"],
            block_size=hf["n_positions"], dropout=hf["resid_pdrop"], tie_embeddings=hf["tie_word_embeddings"],
            vocab_size=hf["vocab_size"],
        )  # fmt: skip
    return ModelConfig(
        arch="optimized", n_layer=hf["num_hidden_layers"], n_head=hf["num_attention_heads"],
        n_kv_head=hf["num_key_value_heads"], n_embd=hf["hidden_size"],
        block_size=hf["max_position_embeddings"], dropout=hf["attention_dropout"],
        tie_embeddings=hf["tie_word_embeddings"], vocab_size=hf["vocab_size"],
    )  # fmt: skip


def _to_file(model: nn.Module) -> dict[str, torch.Tensor]:
    """State as Hugging Face stores it: GPT-2's projections transposed, a tied head once."""
    state = {name: t.detach().cpu() for name, t in model.state_dict().items()}
    if model.config.tie_embeddings:
        del state["lm_head.weight"]
    return {n: (t.T if _is_transposed(model.config, n) else t).contiguous() for n, t in state.items()}


def _fill(model: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    state = {n: t.T if _is_transposed(model.config, n) else t for n, t in state.items()}
    if model.config.tie_embeddings:
        embedding = "transformer.wte.weight" if model.config.arch == "base" else "model.embed_tokens.weight"
        state["lm_head.weight"] = state.get(embedding)
    wanted = model.state_dict()
    for name, tensor in wanted.items():
        if state.get(name) is None:
            raise UserError(f"{path}: the weight {name} is missing; the folder is damaged, write it again")
        if state[name].shape != tensor.shape:
            shapes = f"{tuple(state[name].shape)}, but the config says {tuple(tensor.shape)}"
            raise UserError(f"{path}: the weight {name} has shape {shapes}; the two files do not belong together")
    extra = sorted(state.keys() - wanted.keys())
    if extra:
        raise UserError(f"{path}: unknown weight {extra[0]}; config and weights do not belong together")
    model.load_state_dict(state)


def _is_transposed(config: ModelConfig, name: str) -> bool:
    return config.arch == "base" and name.endswith(_TRANSPOSED)


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    file = folder / "model.safetensors"
    if not file.is_file():
        raise UserError(f"{folder} has no model.safetensors; write the folder again")
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is damaged ({error}); write the folder again") from None


def _save_pt(path: Path, config: dict, state: dict[str, torch.Tensor], tok: Tokenizer) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tok.save(folder)
        files = {file.name: file.read_text(encoding="utf-8") for file in sorted(Path(folder).iterdir())}
    buffer = io.BytesIO()
    torch.save({"config": config, "model": state, "tokenizer": files}, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(path, buffer.getvalue())


def _load_pt(path: Path) -> tuple[ModelConfig, dict[str, torch.Tensor], Tokenizer]:
    if not path.is_file():
        raise UserError(f"{path} does not exist; name a model folder or a .pt file written by this project")
    try:  # weights_only: a pickle from elsewhere must not run code
        content = torch.load(path, map_location="cpu", weights_only=True)
        config, state = content["config"], {name: tensor.float() for name, tensor in content["model"].items()}
        files = {Path(name).name: text.encode() for name, text in content["tokenizer"].items()}
    except (OSError, RuntimeError, EOFError, LookupError, TypeError, ValueError, AttributeError,
            pickle.UnpicklingError) as error:  # fmt: skip
        raise UserError(
            f"{path} is not a checkpoint of this project or is damaged ({type(error).__name__}); write it again"
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            (Path(folder) / name).write_bytes(text)
        tok = tokenizer.load(folder)
    return _model_config(config, path), state, tok
