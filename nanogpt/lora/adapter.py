"""Adapter folders in PEFT's format: save, load on their base model, and find that model."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from nanogpt.checkpoint.folder import load_checkpoint
from nanogpt.checkpoint.identity import model_identity
from nanogpt.data.tokens.tokenizer import Tokenizer
from nanogpt.lora.adapter_file import BASE, CONFIG, Adapter, read_adapter, read_weights
from nanogpt.runtime import atomic
from nanogpt.runtime.errors import UserError

if TYPE_CHECKING:
    from peft import PeftModel  # takes seconds to import: the functions below do it when needed
from nanogpt.lora.attach import adaptable_modules

MODEL_TYPES = {"base": "gpt2", "optimized": "llama"}


def save_adapter(
    adapted: "PeftModel", folder: Path | str, base: Path | str, sha256: str | None = None, card: str | None = None
) -> None:
    """Write the adapter in PEFT's own format, and beside it which model it belongs to.

    `base` is that model's folder or .pt file and `sha256` its `identity`, computed where it is not given;
    `card` is the folder's README.md.
    Raises UserError where there is no such folder.
    """
    base = Path(base)
    if not base.exists():
        raise UserError(f"{base} does not exist: an adapter is saved with the identity of the model it belongs to")
    model_type = MODEL_TYPES[adapted.get_base_model().config.arch]
    with atomic.replace_folder(folder, CONFIG) as target:
        adapted.save_pretrained(target, save_embedding_layers=False)
        (target / "README.md").unlink(missing_ok=True)  # PEFT's empty form of a model card
        if card is not None:
            (target / "README.md").write_text(card, encoding="utf-8", newline="\n")
        config = json.loads((target / CONFIG).read_text(encoding="utf-8"))
        config |= {
            "base_model_name_or_path": display_name(base),
            "auto_mapping": None,
            "task_type": "CAUSAL_LM",
            "fan_in_fan_out": model_type == "gpt2",  # transformers stores GPT-2's weights as (in, out)
            "target_modules": sorted(config["target_modules"]),  # a set in PEFT: its order changes from run to run
        }
        _write_json(target / CONFIG, config)
        _write_json(target / BASE, {"model_type": model_type, "sha256": sha256 or model_identity(base)})


def open_adapted(folder: Path | str, base: Path | str | None = None) -> tuple["PeftModel", Tokenizer]:
    """The model that an adapter was trained on with the adapter on it, and the tokenizer.

    `base` is that model's folder, or else the one that the adapter names. Raises UserError where it
    is another model than the adapter was trained on, and for whatever `load` refuses.
    """
    read_adapter(folder)
    base = find_base(folder) if base is None else base
    model, tok = load_checkpoint(base)
    check_base(folder, base)
    return load_adapter(folder, model), tok


def load_adapter(folder: Path | str, model: nn.Module) -> "PeftModel":
    """Put a saved adapter on `model`, in place; eval mode, nothing trainable.

    The caller answers for `model` being the right one (see `check_base`). Raises UserError where the
    folder holds no adapter, one for another architecture or shape, or one that is not safe to load;
    `model` is as it was then.
    """
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    found, arch = read_adapter(folder), model.config.arch
    if found.model_type not in (None, MODEL_TYPES[arch]):
        raise UserError(
            f"{folder} is an adapter for the other architecture than the {arch} model it is put on; "
            f"it was trained on {found.origin}"
        )
    try:
        tensors = read_weights(folder, _tensor_shapes(model, found))
    except UserError as error:
        raise UserError(f"{error}; {folder} was trained on {found.origin}") from None
    config = LoraConfig(
        r=found.r, lora_alpha=found.alpha, lora_dropout=found.dropout, target_modules=found.targets,
        use_rslora=found.rslora, use_dora=found.dora, inference_mode=True,
    )  # fmt: skip
    adapted = get_peft_model(model, config)
    set_peft_model_state_dict(adapted, tensors)
    return adapted.eval()


def check_base(folder: Path | str, base: Path | str) -> None:
    """Raise UserError where `base` is another model than the adapter in `folder` was trained on.

    An adapter without a base.json, trained elsewhere, does not say; then its shapes decide in `load`.
    """
    found = read_adapter(folder)
    if found.sha256 not in (None, (here := model_identity(base))):
        raise UserError(
            f"{folder} was trained on {found.origin}, and {base} is another model ({here[:12]}): merged already, or "
            "trained anew; name the adapter's own with --base-checkpoint, or train the adapter again"
        )


def find_base(folder: Path | str) -> Path:
    """The model folder that an adapter was trained on: as it is named from here, or else beside the adapter.

    Raises UserError where it is in neither place, and for an adapter from elsewhere, which cannot tell.
    """
    found = read_adapter(folder)
    if not found.base or not found.sha256:
        raise UserError(f"{folder} does not say which model it belongs to; name it with --base-checkpoint")
    named = (Path(found.base), Path(folder).resolve().parent / Path(found.base).name)
    there = [base for base in named if base.exists()]
    if there:
        return next((base for base in there if model_identity(base) == found.sha256), there[0])
    raise UserError(f"{folder} was trained on {found.origin}, which is not here; name it with --base-checkpoint")


def display_name(base: Path | str) -> str:
    """How to call a model anywhere: by its path in the project, or by its name where it lies outside."""
    base, project = Path(os.path.abspath(base)), Path.cwd()
    return base.relative_to(project).as_posix() if base.is_relative_to(project) else base.name


def _write_json(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _tensor_shapes(model: nn.Module, found: Adapter) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an adapter's tensors on `model`, as PEFT writes them."""
    r, modules, shapes = found.r, adaptable_modules(model), {}
    if r > model.config.n_embd:
        raise UserError(f"the adapter's rank of {r} is above the model's width of {model.config.n_embd}")
    for target in found.targets:  # a name, or the end of a path, as in PEFT
        names = [name for name in modules if f".{name}".endswith(f".{target}")]
        if not names:
            raise UserError(f"this model has no module {target!r}")
        for name in names:
            prefix, (rows, columns) = f"base_model.model.{name}.lora_", modules[name].weight.shape
            if isinstance(modules[name], nn.Embedding):  # (V, C)
                shapes |= {f"{prefix}embedding_A": (r, rows), f"{prefix}embedding_B": (columns, r)}
            else:  # (out, in)
                shapes |= {f"{prefix}A.weight": (r, columns), f"{prefix}B.weight": (rows, r)}
            if found.dora:
                width = columns if isinstance(modules[name], nn.Embedding) else rows
                shapes[f"{prefix}magnitude_vector"] = (width,)
    return shapes
