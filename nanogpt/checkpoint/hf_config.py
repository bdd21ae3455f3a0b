"""The shape of a model as config.json says it: Hugging Face's words for ours, and what others wrote in them.

A config comes from anywhere and is believed in nothing: every value is checked for its type and bounds here,
before a model of that shape takes memory, and what our models cannot compute is refused.
"""

from dataclasses import replace
from pathlib import Path

from nanogpt.model.config import ModelConfig
from nanogpt.model.llama import mlp_width
from nanogpt.runtime.errors import BadSetting, UserError, shorten

# Far above any model that a CPU can run, and low enough that arithmetic with them stays cheap.
MOST = {
    "n_layer": 1024, "n_head": 2**16, "n_kv_head": 2**16, "n_embd": 2**16, "block_size": 2**20, "vocab_size": 2**24,
    "mlp_hidden": 2**20,
}  # fmt: skip
# What our models do not vary: a folder that says otherwise is another model, even if its weights fit.
FIXED = {
    "gpt2": {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
    "llama": {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
}


def hf_config(config: ModelConfig, eot: int, dtype: str = "float32") -> dict:
    """config.json of the Hugging Face model that ours is: GPT-2 for base, Llama for optimized."""
    ends = {"bos_token_id": eot, "eos_token_id": eot, "tie_word_embeddings": config.tie_embeddings, "dtype": dtype}
    if config.arch == "base":
        return {
            "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": config.vocab_size,
            "n_positions": config.block_size, "n_embd": config.n_embd, "n_layer": config.n_layer,
            "n_head": config.n_head, **({"n_inner": config.mlp_hidden} if config.mlp_hidden else {}),
            "activation_function": config.activation, "layer_norm_epsilon": config.norm_eps,
            "embd_pdrop": config.dropout, "attn_pdrop": config.dropout, "resid_pdrop": config.dropout, **ends,
        }  # fmt: skip
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": config.vocab_size,
        "max_position_embeddings": config.block_size, "hidden_size": config.n_embd,
        "num_hidden_layers": config.n_layer, "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head, "intermediate_size": mlp_width(config), "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_bias": False, "mlp_bias": False, "attention_dropout": config.dropout, **ends,
    }  # fmt: skip


def config_from_hf(hf: object, file: Path) -> ModelConfig:
    """The shape that a parsed config.json describes; what it leaves out has Hugging Face's default.

    Raises UserError, naming `file`, where it is damaged, absurd or of a model that ours cannot be.
    """
    kind = hf.get("model_type") if isinstance(hf, dict) else None
    if kind not in ("gpt2", "llama"):
        raise UserError(
            f"{file}: the architecture {shorten(repr(kind))} is not one of ours; gpt2 (base) and llama (optimized) are"
        )
    for key, ours in FIXED[kind].items():
        if hf.get(key, ours) != ours:
            raise UserError(f"{file}: {key} is {shorten(repr(hf[key]))}; in our models it is {ours!r}")
    return _checked(CheckedValues(hf, file), _gpt2 if kind == "gpt2" else _llama)


def config_from_nanogpt(args: object, file: Path) -> ModelConfig:
    """The shape that `model_args` of a nanoGPT checkpoint describes. Raises UserError as `from_hf` does."""
    if not isinstance(args, dict):
        raise UserError(f"{file}: its model_args are damaged; write it again")
    return _checked(CheckedValues(args, file), _nanogpt)


class CheckedValues:
    """Values of a config from elsewhere, each with the type and bounds it must have."""

    def __init__(self, values: dict, file: Path):
        self.values, self.file = values, file

    def whole(self, key: str, field: str, default: int | None = None) -> int:
        """A whole number from 1 to the bound of `field`."""
        most = MOST[field]
        return self._checked(key, default, lambda v: type(v) is int and 1 <= v <= most, f"a whole number, 1 to {most}")

    def number(self, key: str, default: float | None, least: float, most: float) -> float:
        """A number between two bounds."""
        wanted = f"a number from {least:g} to {most:g}"
        return float(self._checked(key, default, lambda v: type(v) in (int, float) and least <= v <= most, wanted))

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        return self._checked(key, default, lambda v: type(v) is bool, "true or false")

    def one_of(self, key: str, default: str, known: tuple[str, ...]) -> str:
        """One of the known words."""
        return self._checked(key, default, lambda v: v in known, f"one of {', '.join(known)}")

    def refuse(self, key: str, value: object, wanted: str) -> UserError:
        """The error for a value that is not as wanted."""
        return UserError(
            f"{self.file}: {key} is {shorten(repr(value))} and must be {wanted}; damaged, or another kind of model"
        )

    def _checked(self, key, default, valid, wanted):
        value = self.values.get(key)
        value = default if value is None else value
        if not valid(value):
            raise self.refuse(key, value, wanted)
        return value


def _checked(given: CheckedValues, read) -> ModelConfig:
    try:
        config = read(given)
    except BadSetting as bad:
        raise UserError(f"{given.file}: {bad}") from None
    own = 4 * config.n_embd if config.arch == "base" else mlp_width(replace(config, mlp_hidden=None))
    return replace(config, mlp_hidden=None) if config.mlp_hidden == own else config


def _gpt2(given: CheckedValues) -> ModelConfig:
    n_embd, n_head = given.whole("n_embd", "n_embd"), given.whole("n_head", "n_head")
    return ModelConfig(
        arch="base", n_layer=given.whole("n_layer", "n_layer"), n_head=n_head, n_kv_head=n_head, n_embd=n_embd,
        block_size=given.whole("n_positions", "block_size"), dropout=given.number("resid_pdrop", 0.1, 0, 1),
        tie_embeddings=given.flag("tie_word_embeddings", True), vocab_size=given.whole("vocab_size", "vocab_size"),
        mlp_hidden=given.whole("n_inner", "mlp_hidden", 4 * n_embd),
        norm_eps=given.number("layer_norm_epsilon", 1e-5, 0, 0.1),
        activation=given.one_of("activation_function", "gelu_new", ("gelu_new", "gelu")),
    )  # fmt: skip


def _llama(given: CheckedValues) -> ModelConfig:
    n_head = given.whole("num_attention_heads", "n_head")
    config = ModelConfig(
        arch="optimized", n_layer=given.whole("num_hidden_layers", "n_layer"), n_head=n_head,
        n_kv_head=given.whole("num_key_value_heads", "n_kv_head", n_head),
        n_embd=given.whole("hidden_size", "n_embd"), block_size=given.whole("max_position_embeddings", "block_size"),
        dropout=given.number("attention_dropout", 0.0, 0, 1), tie_embeddings=given.flag("tie_word_embeddings", False),
        vocab_size=given.whole("vocab_size", "vocab_size"),
        mlp_hidden=given.whole("intermediate_size", "mlp_hidden"),
        norm_eps=given.number("rms_norm_eps", 1e-6, 0, 0.1), rope_theta=_rope_theta(given),
    )  # fmt: skip
    if given.values.get("head_dim") not in (None, config.head_dim):
        raise given.refuse("head_dim", given.values["head_dim"], f"{config.head_dim}, hidden_size over the heads")
    return config


def _nanogpt(given: CheckedValues) -> ModelConfig:
    n_head = given.whole("n_head", "n_head")
    return ModelConfig(
        arch="base", n_layer=given.whole("n_layer", "n_layer"), n_head=n_head, n_kv_head=n_head,
        n_embd=given.whole("n_embd", "n_embd"), block_size=given.whole("block_size", "block_size"),
        dropout=given.number("dropout", 0.0, 0, 1), tie_embeddings=True,
        vocab_size=given.whole("vocab_size", "vocab_size"), activation="gelu",
    )  # fmt: skip


def _rope_theta(given: CheckedValues) -> float:
    """The one setting of plain rotary positions, in the place where transformers 5 or where 4 writes it."""
    rope = {"rope_theta": given.values.get("rope_theta")}
    for key in ("rope_parameters", "rope_scaling"):
        found = given.values.get(key) or {}
        plain = isinstance(found, dict) and not found.keys() - {"rope_type", "type", "rope_theta"}
        if not plain or (found.get("rope_type", "default"), found.get("type", "default")) != ("default",) * 2:
            raise given.refuse(key, found, "of rope_type default, without scaling")
        rope |= found
    return CheckedValues(rope, given.file).number("rope_theta", 10_000.0, 1, 1e12)
