"""Reads an adapter's folder and checks all of it before it takes memory or reaches PEFT.

The folder holds PEFT's two files and our base.json: which model the adapter was trained on, identified by SHA-256 of
its content, not by path. PEFT's config can name classes to import, weights to start anew and layers to copy: only the
keys of LoRA and of trained embeddings are read, and a folder that uses any other is refused.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from nanogpt.checkpoint.safe_links import refuse_links_out
from nanogpt.runtime.checksums import verify_checksums
from nanogpt.runtime.errors import UserError, shorten

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "base.json"
_FLOATS = {"F64", "F32", "F16", "BF16"}
_JSON_BYTES = 1 << 22  # PEFT's config has 1 KiB, and for each trained embedding the token's number
_RETRAIN = "train the adapter again"


def _are_rows(value: object) -> bool:
    """Whether these are modules with token ids, each once."""
    return isinstance(value, dict) and all(
        isinstance(ids, list) and ids and all(type(i) is int and i >= 0 for i in ids) and len(set(ids)) == len(ids)
        for ids in value.values()
    )


# The keys of PEFT's config that describe plain LoRA, rsLoRA and DoRA: default and test of the value.
_LORA_KEYS = {
    "r": (None, lambda value: type(value) is int and value >= 1),
    "lora_alpha": (None, lambda value: type(value) in (int, float) and 0 < value < 1e30),
    "lora_dropout": (0.0, lambda value: type(value) in (int, float) and 0 <= value < 1),
    "target_modules": (
        None, lambda value: isinstance(value, list) and value and all(isinstance(name, str) and name for name in value)
    ),
    "trainable_token_indices": (None, lambda value: value is None or _are_rows(value)),
    "use_rslora": (False, lambda value: value in (True, False)),
    "use_dora": (False, lambda value: value in (True, False)),
}  # fmt: skip
_OTHER_KEYS = {
    "bias": ("none", lambda value: value == "none"),
    "task_type": ("CAUSAL_LM", lambda value: value == "CAUSAL_LM"),
    # the other ways to start an adapter also change the base's own weights
    "init_lora_weights": (True, lambda value: value in (True, False, "gaussian")),
    "base_model_name_or_path": ("", lambda value: isinstance(value, str) and len(value) <= 1000),
}
# Keys that change nothing in a saved adapter: who wrote it, defaults, what the modules themselves say.
_IGNORED_KEYS = {
    "peft_version", "inference_mode", "revision", "fan_in_fan_out", "megatron_core", "qalora_group_size",
    "runtime_config",
}  # fmt: skip


@dataclass(frozen=True)
class Adapter:
    """What a folder says of its adapter, without the weights.

    `lora` are arguments of PEFT's LoraConfig. `base` is the path or name of the model under it, "" if unknown; `sha256`
    is that model's identity and `model_type` its Hugging Face model_type, both None if the folder has no base.json.
    """

    lora: dict
    base: str
    sha256: str | None
    model_type: str | None

    @property
    def origin(self) -> str:
        """The model that the adapter was trained on, for a message."""
        return (shorten(self.base) or "a model without a name") + (f" ({self.sha256[:12]})" if self.sha256 else "")


def read_adapter(folder: Path | str) -> Adapter:
    """Read and check the adapter in a folder, without its weights.

    Raises UserError if there is none, if it is damaged or has links to other places, or if it is more than LoRA,
    rsLoRA or DoRA.
    """
    folder = Path(folder)
    refuse_links_out(folder)
    file = folder / CONFIG
    if not file.is_file():
        raise UserError(f"{folder} holds no adapter (no {CONFIG}); train one with `dvc repro lora-finetune`")
    config = _read_json(file)
    if (kind := config.pop("peft_type", None)) != "LORA":
        raise UserError(f"{folder} holds an adapter of the kind {shorten(repr(kind))}, not LoRA")
    values = {}
    for key, (default, valid) in (_LORA_KEYS | _OTHER_KEYS).items():
        value = config.pop(key, None)
        values[key] = default if value is None else value
        if not valid(values[key]):
            raise UserError(f"{file}: {key} = {shorten(repr(values[key]))} is not supported; {_RETRAIN}")
    for key in sorted(config.keys() - _IGNORED_KEYS):
        if config[key] not in (None, False, {}, []):
            setting = f"{shorten(repr(key))} = {shorten(repr(config[key]))}"
            raise UserError(f"{file}: {setting} is more than LoRA, rsLoRA or DoRA; name another adapter")
    return Adapter({key: values[key] for key in _LORA_KEYS}, values["base_model_name_or_path"], *_read_base(folder))


def read_weights(folder: Path | str, shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Read an adapter's tensors if the names and shapes in the file's header are those of `shapes`.

    Raises UserError for other names, shapes or dtypes, for NaN and infinity, for a damaged file or a pickle, and if
    SHA256SUMS says that the files are not those that were written.
    """
    folder = Path(folder)
    file = folder / WEIGHTS
    if not file.is_file():
        if (folder / "adapter_model.bin").exists():
            pickle = "adapter_model.bin, a pickle, which can run code"
            raise UserError(f"{folder} has its weights in {pickle}; save them as {WEIGHTS}")
        raise UserError(f"{folder} has no {WEIGHTS}; {_RETRAIN}")
    try:
        with safe_open(file, "pt") as stored:
            names = set(stored.keys())
            if wrong := names ^ shapes.keys():
                name = min(wrong)
                problem = "not for" if name in names else "missing for"
                raise UserError(f"{file}: {shorten(repr(name))} is {problem} this model")
            for name, shape in shapes.items():
                entry = stored.get_slice(name)
                if (found := tuple(entry.get_shape())) != shape:
                    raise UserError(f"{file}: {name} has the shape {found}, and this model needs {shape}")
                if entry.get_dtype() not in _FLOATS:
                    raise UserError(f"{file}: {name} is of the type {entry.get_dtype()}, not floating point")
            tensors = {name: stored.get_tensor(name) for name in shapes}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is damaged ({shorten(error)}); {_RETRAIN}") from None
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UserError(f"{file}: {name} holds NaN or infinity; {_RETRAIN}")
    verify_checksums(folder, (CONFIG, BASE, WEIGHTS))
    return tensors


def _read_base(folder: Path) -> tuple[str | None, str | None]:
    """The identity and model_type in base.json; None and None if the folder has no such file."""
    file = folder / BASE
    if not file.is_symlink() and not file.exists():
        return None, None
    if not file.is_file():
        raise UserError(f"{file} is not a file; {_RETRAIN}")
    found = _read_json(file)
    sha256, model_type = found.get("sha256"), found.get("model_type")
    if not re.fullmatch("[0-9a-f]{64}", str(sha256)) or not isinstance(model_type, str):
        raise UserError(f"{file} is damaged (no hash and type of a model); {_RETRAIN}")
    return sha256, model_type


def _read_json(file: Path) -> dict:
    try:
        if file.stat().st_size > _JSON_BYTES:
            raise ValueError(f"larger than {_JSON_BYTES} bytes")
        found = json.loads(file.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({shorten(error)}); {_RETRAIN}") from None
    return found
