"""The shape of a model as config.json describes it, in Hugging Face's names.

A config can come from anywhere: the type and bounds of every value are checked here, before a model of that shape
takes memory, and a model that ours cannot compute is refused.
"""

from dataclasses import replace
from pathlib import Path

from nanogpt.model.build import model_class
from nanogpt.model.config import ModelConfig
from nanogpt.model.llama import mlp_width
from nanogpt.runtime.errors import BadSetting, UserError, shorten

# Our fields by the names that other programs give them.
_GPT2 = {
    "vocab_size": "vocab_size", "n_positions": "block_size", "n_embd": "n_embd", "n_layer": "n_layer",
    "n_head": "n_head", "n_inner": "mlp_hidden", "activation_function": "activation",
    "layer_norm_epsilon": "norm_eps", "embd_pdrop": "dropout", "attn_pdrop": "dropout", "resid_pdrop": "dropout",
    "tie_word_embeddings": "tie_embeddings",
}  # fmt: skip
_LLAMA = {
    "vocab_size": "vocab_size", "max_position_embeddings": "block_size", "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "num_key_value_heads": "n_kv_head",
    "intermediate_size": "mlp_hidden", "rms_norm_eps": "norm_eps", "attention_dropout": "dropout",
    "tie_word_embeddings": "tie_embeddings",
}  # fmt: skip
_NANOGPT = {key: key for key in ("n_head", "n_layer", "n_embd", "block_size", "vocab_size", "dropout")}
# Hugging Face's values for what a config leaves out.
_GPT2_DEFAULTS = {
    "mlp_hidden": None, "dropout": 0.1, "tie_embeddings": True, "norm_eps": 1e-5, "activation": "gelu_new",
}  # fmt: skip
_LLAMA_DEFAULTS = {"n_kv_head": None, "dropout": 0.0, "tie_embeddings": False, "norm_eps": 1e-6}
# Keys that our models have one value for: with another, a folder is another model even if its weights fit.
_FIXED = {
    "gpt2": {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
    "llama": {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
    "qwen3": {"hidden_act": "silu", "attention_bias": False, "use_sliding_window": False},
}
# Type, least and most: far above any model that a CPU can run, and low enough that arithmetic with them stays cheap.
_RANGES = {
    "n_layer": (int, 1, 1024), "n_head": (int, 1, 2**16), "n_kv_head": (int, 1, 2**16), "n_embd": (int, 1, 2**16),
    "block_size": (int, 1, 2**20), "vocab_size": (int, 1, 2**24), "mlp_hidden": (int, 1, 2**20),
    "dropout": (float, 0, 1), "norm_eps": (float, 0, 0.1), "rope_theta": (float, 1, 10**12),
}  # fmt: skip
_CHOICES = {"tie_embeddings": (True, False), "activation": ("gelu_new", "gelu")}


def hf_config(config: ModelConfig, eot: int, dtype: str = "float32") -> dict:
    """Describe a model for config.json: as GPT-2 if its architecture is base, as Llama or Qwen3 if it is optimized."""
    names, keys, fixed = model_class(config).hf, _GPT2, {}
    if config.arch == "optimized":
        config, keys = replace(config, mlp_hidden=mlp_width(config)), _LLAMA
        fixed = {
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
            **_FIXED[names.model_type],
        }
    if config.qk_normed:
        fixed["head_dim"] = config.head_dim
    fields = {key: getattr(config, field) for key, field in keys.items() if field != "tie_embeddings"}
    return {
        "architectures": [names.model_class], "model_type": names.model_type,
        **{key: value for key, value in fields.items() if value is not None}, **fixed,
        "bos_token_id": eot, "eos_token_id": eot, "tie_word_embeddings": config.tie_embeddings, "dtype": dtype,
    }  # fmt: skip


def config_from_hf(hf: object, file: Path) -> ModelConfig:
    """Read the shape from a parsed config.json; what it leaves out has Hugging Face's default.

    Raises UserError, naming `file`, if it is damaged, out of bounds or of a model that ours cannot be.
    """
    kind = hf.get("model_type") if isinstance(hf, dict) else None
    if not isinstance(kind, str) or kind not in _FIXED:
        raise UserError(f"{file}: the architecture {shorten(repr(kind))} is not one of ours: {', '.join(_FIXED)}")
    for key, ours in _FIXED[kind].items():
        if hf.get(key, ours) != ours:
            raise _bad_value(file, key, hf[key], repr(ours))
    if kind == "gpt2":
        return _build_config("base", _read_fields(hf, file, _GPT2, _GPT2_DEFAULTS), file)
    fields = _read_fields(hf, file, _LLAMA, _LLAMA_DEFAULTS)
    fields |= _read_fields(_rope(hf, file), file, {"rope_theta": "rope_theta"}, {"rope_theta": 10_000.0})
    config = _build_config("optimized", fields | {"qk_norm": kind == "qwen3"}, file)
    head_dim = hf.get("head_dim", 128 if kind == "qwen3" else None)
    if head_dim not in (None, config.head_dim):
        raise _bad_value(file, "head_dim", head_dim, f"{config.head_dim}, hidden_size over the heads")
    return config


def config_from_nanogpt(args: object, file: Path) -> ModelConfig:
    """Read the shape from `model_args` of a nanoGPT checkpoint. Raises UserError as `config_from_hf` does."""
    if not isinstance(args, dict):
        raise UserError(f"{file}: its model_args are damaged; write it again")
    fields = _read_fields(args, file, _NANOGPT, {"dropout": 0.0})
    return _build_config("base", fields | {"tie_embeddings": True, "activation": "gelu"}, file)


def _read_fields(values: dict, file: Path, keys: dict[str, str], defaults: dict) -> dict:
    """Our fields from a config, `keys` maps its keys to them; raises UserError for a value that is not allowed."""
    fields = {}
    for key, field in keys.items():
        value = values.get(key)
        if value is None and field in defaults:
            fields[field] = defaults[field]
        elif field in _CHOICES:
            if type(value) not in (bool, str) or value not in _CHOICES[field]:
                raise _bad_value(file, key, value, " or ".join(map(str, _CHOICES[field])))
            fields[field] = value
        else:
            kind, least, most = _RANGES[field]
            if type(value) not in (int, kind) or not least <= value <= most:
                wanted = "a whole number" if kind is int else "a number"
                raise _bad_value(file, key, value, f"{wanted} from {least} to {most}")
            fields[field] = kind(value)
    return fields


def _build_config(arch: str, fields: dict, file: Path) -> ModelConfig:
    try:
        heads = {"n_kv_head": fields.get("n_kv_head") or fields["n_head"]}
        config = ModelConfig(arch=arch, **{"qk_norm": False} | fields | heads)
    except BadSetting as bad:
        raise UserError(f"{file}: {bad}") from None
    default = 4 * config.n_embd if arch == "base" else mlp_width(replace(config, mlp_hidden=None))
    return replace(config, mlp_hidden=None) if config.mlp_hidden == default else config


def _rope(hf: dict, file: Path) -> dict:
    """The settings of plain rotary positions, from where transformers 5 or 4 writes them; others are refused."""
    rope = {"rope_theta": hf.get("rope_theta")}
    for key in ("rope_parameters", "rope_scaling"):
        found = hf.get(key) or {}
        plain = isinstance(found, dict) and not found.keys() - {"rope_type", "type", "rope_theta"}
        if not plain or (found.get("rope_type", "default"), found.get("type", "default")) != ("default",) * 2:
            raise _bad_value(file, key, found, "of rope_type default, without scaling")
        rope |= found
    return rope


def _bad_value(file: Path, key: str, value: object, wanted: str) -> UserError:
    return UserError(f"{file}: {key} is {shorten(repr(value))} and must be {wanted}; damaged, or another kind of model")
