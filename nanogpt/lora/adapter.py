"""Adapter folders in PEFT's format: save, load on their base model, and find that model."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from nanogpt.checkpoint.folder import load_checkpoint
from nanogpt.checkpoint.identity import model_identity
from nanogpt.data.tokens.tokenizer import Tokenizer, load_tokenizer
from nanogpt.lora.adapter_file import BASE, CONFIG, Adapter, read_adapter, read_weights
from nanogpt.lora.attach import adaptable_modules, embedding_ends
from nanogpt.runtime import atomic
from nanogpt.runtime.errors import UserError, shorten

BASE_FLAGS = "with --base-checkpoint, or with --checkpoint where one model is sampled or served"

if TYPE_CHECKING:
    from peft import PeftModel  # takes seconds to import: the functions below do it when needed


def save_adapter(
    adapted: "PeftModel", folder: Path | str, base: Path | str, sha256: str | None = None, card: str | None = None,
    tok: Tokenizer | None = None,
) -> None:  # fmt: skip
    """Write an adapter in PEFT's format, and beside it which model it belongs to.

    `base` is that model's folder or .pt file and `sha256` its identity, computed if it is not given; `card` is the
    folder's README.md. The tokenizer is saved too if the adapter gave its model a chat template. Equal adapters give
    equal bytes.
    """
    hf = adapted.get_base_model().hf
    with atomic.replace_folder(folder, CONFIG) as target:
        adapted.save_pretrained(target, save_embedding_layers=False)
        (target / "README.md").unlink(missing_ok=True)  # PEFT's empty form of a model card
        if tok is not None and tok.chat:
            tok.save(target)
        if card is not None:
            (target / "README.md").write_text(card, encoding="utf-8", newline="\n")
        config = json.loads((target / CONFIG).read_text(encoding="utf-8"))
        config |= {
            "base_model_name_or_path": display_name(base),
            "auto_mapping": None,
            "task_type": "CAUSAL_LM",
            "fan_in_fan_out": bool(hf.transposed),  # transformers stores GPT-2's weights as (in, out)
            "target_modules": sorted(config["target_modules"]),  # a set in PEFT: its order changes from run to run
        }
        identity = {"model_type": hf.model_type, "sha256": sha256 or model_identity(base)}
        for name, content in ((CONFIG, config), (BASE, identity)):
            (target / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def open_adapted(folder: Path | str, base: Path | str | None = None) -> tuple["PeftModel", Tokenizer]:
    """Load an adapter on the model that it was trained on; return the two as one model, and the tokenizer.

    `base` is that model's folder or .pt file, by default the one that the adapter names. Raises UserError if it is
    another model than that, and as `load_checkpoint` and `load_adapter` do.
    """
    base = find_base(folder) if base is None else base
    found = read_adapter(folder)  # a damaged adapter is reported before its base is read
    model, tok = load_checkpoint(base)
    # without a base.json, trained elsewhere, it does not say which; then its shapes decide
    if found.sha256 not in (None, (identity := model_identity(base))):
        reason = f"{folder} was trained on {found.origin}, and {base} is another model ({identity[:12]})"
        remedy = f"name the adapter's own {BASE_FLAGS}, or train the adapter again"
        raise UserError(f"{reason}: merged already, or trained again; {remedy}")
    if Path(folder, "tokenizer.json").is_file():
        own = load_tokenizer(folder)
        if own.sha256 != tok.sha256:
            raise UserError(f"{folder}: its tokenizer is another than that of {base}; train the adapter again")
        tok = own  # with a chat template
    return load_adapter(folder, model), tok


def is_whole_model(folder: Path | str) -> bool:
    """Whether the folder holds a model and no adapter, as fine-tuning with `lora.kind` full writes it."""
    return Path(folder, "config.json").is_file() and not Path(folder, CONFIG).is_file()


def load_adapter(folder: Path | str, model: nn.Module) -> "PeftModel":
    """Put a saved adapter on `model`, in place; eval mode, nothing trainable.

    The caller makes sure that `model` is the right one (see `open_adapted`). Raises UserError, with `model` unchanged,
    for a folder without an adapter, an adapter for another architecture or shape, or one that is not safe to load.
    """
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    found = read_adapter(folder)
    if found.model_type not in (None, model.hf.model_type):
        other = f"adapter for the other architecture than the {model.config.arch} model it is put on"
        raise UserError(f"{folder} is an {other}; it was trained on {found.origin}")
    try:
        tensors = read_weights(folder, _tensor_shapes(model, found))
    except UserError as error:
        raise UserError(f"{error}; {folder} was trained on {found.origin}") from None
    adapted = get_peft_model(model, LoraConfig(**found.lora, inference_mode=True))
    set_peft_model_state_dict(adapted, tensors)
    return adapted.eval()


def find_base(folder: Path | str) -> Path:
    """Find the model that an adapter was trained on, at the path that it names or beside the adapter.

    Only a model folder or a regular .pt file is opened. Raises UserError if there is none in either place, and for an
    adapter from elsewhere, which does not say.
    """
    found = read_adapter(folder)
    if not found.base or not found.sha256:
        raise UserError(f"{folder} does not say which model it belongs to; name it {BASE_FLAGS}")
    places = (Path(found.base), Path(folder).resolve().parent / Path(found.base).name)
    models = [base for base in places if (base if base.suffix == ".pt" else base / "config.json").is_file()]
    if models:
        return next((base for base in models if model_identity(base) == found.sha256), models[0])
    raise UserError(f"{folder} was trained on {found.origin}, which is not here; name it {BASE_FLAGS}")


def display_name(base: Path | str) -> str:
    """Name a model in files that are published: by its path in the project, by its last part if it lies outside."""
    base, project = Path(os.path.abspath(base)), Path.cwd()
    return base.relative_to(project).as_posix() if base.is_relative_to(project) else base.name


def _tensor_shapes(model: nn.Module, adapter: Adapter) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an adapter's tensors on `model`, as PEFT writes them."""
    r, modules, shapes = adapter.lora["r"], adaptable_modules(model), {}
    if r > model.config.n_embd:
        raise UserError(f"the adapter's rank of {r} is above the model's width of {model.config.n_embd}")
    for name, ids in (adapter.lora["trainable_token_indices"] or {}).items():
        names = [end for end in embedding_ends(model) if f".{end}".endswith(f".{name}")]
        if not names:
            raise UserError(f"this model has no embeddings of its own in {shorten(repr(name))}")
        if max(ids) >= model.config.vocab_size:
            raise UserError(
                f"the adapter has an embedding for token {max(ids)}, and the model has {model.config.vocab_size}"
            )
        shapes[f"base_model.model.{names[0]}.token_adapter.trainable_tokens_delta"] = (len(ids), model.config.n_embd)
    for target in adapter.lora["target_modules"]:  # a name, or the end of a path, as in PEFT
        names = [name for name in modules if f".{name}".endswith(f".{target}")]
        if not names:
            raise UserError(f"this model has no module {target!r}")
        for name in names:
            prefix, (rows, columns) = f"base_model.model.{name}.lora_", modules[name].weight.shape
            embedding = isinstance(modules[name], nn.Embedding)
            if embedding:  # (V, C)
                shapes |= {f"{prefix}embedding_A": (r, rows), f"{prefix}embedding_B": (columns, r)}
            else:  # (out, in)
                shapes |= {f"{prefix}A.weight": (r, columns), f"{prefix}B.weight": (rows, r)}
            if adapter.lora["use_dora"]:
                shapes[f"{prefix}magnitude_vector"] = (columns if embedding else rows,)
    return shapes
