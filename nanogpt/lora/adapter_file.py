"""An adapter's folder as it lies on the disk: checked before any of it takes memory or reaches PEFT.

It holds what PEFT writes, adapter_config.json and adapter_model.safetensors, and beside them our
base.json: which model the adapter was trained on, told by content. Adapters come from anywhere, and
PEFT's config can name classes to import, weights to start anew and layers to copy: we read the few
keys that plain LoRA needs and refuse a folder where any other is in use.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from nanogpt.checkpoint.safe_links import STORES
from nanogpt.runtime.checksums import verify_checksums
from nanogpt.runtime.errors import UserError, shorten

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "base.json"
# what PEFT writes without a bearing on a saved adapter: who wrote it, defaults, what a module itself tells
_IDLE = {
    "peft_version", "inference_mode", "revision", "fan_in_fan_out", "megatron_core", "qalora_group_size",
    "runtime_config",
}  # fmt: skip
_FLOATS = {"F64", "F32", "F16", "BF16"}
_JSON_BYTES = 1 << 20  # PEFT's config has 1 KiB
_AGAIN = "train the adapter again"


@dataclass(frozen=True)
class Adapter:
    """What a folder says of its adapter; `sha256` and `model_type` are None where it has no base.json.

    `base` is how the model was called where the adapter was trained, "" where nobody wrote it down.
    """

    r: int
    alpha: float
    dropout: float
    targets: list[str]
    rslora: bool
    dora: bool
    base: str
    sha256: str | None
    model_type: str | None

    @property
    def origin(self) -> str:
        """The model it was trained on, for a message."""
        return (shorten(self.base) or "a model without a name") + (f" ({self.sha256[:12]})" if self.sha256 else "")


def read_adapter(folder: Path | str) -> Adapter:
    """The adapter in a folder, without its weights.

    Raises UserError where there is none, where it is damaged, or where it is more than LoRA, rsLoRA or DoRA.
    """
    folder = Path(folder)
    missing = f"{folder} holds no adapter (no {CONFIG}); train one with `dvc repro lora-finetune`"
    config = _read_json(_checked_file(folder, CONFIG, missing))
    found, where = dict(config), folder / CONFIG
    if found.pop("peft_type", None) != "LORA":
        raise UserError(f"{folder} holds an adapter of the kind {shorten(repr(config.get('peft_type')))}, not LoRA")

    def take(key: str, default: object, right) -> object:
        value = found.pop(key, None)
        value = default if value is None else value
        if not right(value):
            raise UserError(f"{where}: {key} = {shorten(repr(value))} is not one that is known here; {_AGAIN}")
        return value

    take("bias", "none", lambda value: value == "none")
    take("task_type", "CAUSAL_LM", lambda value: value == "CAUSAL_LM")
    # the other ways to start an adapter also change the base's own weights
    take("init_lora_weights", True, lambda value: isinstance(value, bool) or value == "gaussian")
    values = {
        "r": take("r", None, lambda value: type(value) is int and value >= 1),
        "alpha": take("lora_alpha", None, lambda value: _is_number(value) and value > 0),
        "dropout": take("lora_dropout", 0.0, lambda value: _is_number(value) and 0 <= value < 1),
        "targets": take("target_modules", None, _are_names),
        "rslora": take("use_rslora", False, lambda value: isinstance(value, bool)),
        "dora": take("use_dora", False, lambda value: isinstance(value, bool)),
        "base": take("base_model_name_or_path", "", lambda value: isinstance(value, str) and len(value) <= 1000),
    }
    for key in sorted(found.keys() - _IDLE):
        if found[key] not in (None, False, {}, []):
            raise UserError(
                f"{where}: {shorten(repr(key))} = {shorten(repr(found[key]))} is more than LoRA, rsLoRA or DoRA; "
                "nothing was loaded: name another adapter"
            )
    return Adapter(**values, **_origin(folder))


def read_weights(folder: Path | str, shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """The tensors of an adapter, once its file's header says that they are those of `shapes`.

    Raises UserError for any other set of names, shapes or kinds of number, for NaN and infinity, for a
    damaged file or a pickle, and where SHA256SUMS says that the adapter is not what was written.
    """
    folder = Path(folder)
    missing = f"{folder} has no {WEIGHTS}; {_AGAIN}"
    if (folder / "adapter_model.bin").exists():
        missing = f"{folder} has its weights in adapter_model.bin, a pickle, which can run code; save them as {WEIGHTS}"
    file = _checked_file(folder, WEIGHTS, missing)
    if file.stat().st_size > 8 * sum(math.prod(shape) for shape in shapes.values()) + _JSON_BYTES:
        raise UserError(f"{file} is far larger than an adapter for this model; name another")
    try:
        with safe_open(file, "pt") as stored:
            names = set(stored.keys())
            if odd := names ^ shapes.keys():
                name = min(odd)
                raise UserError(
                    f"{file}: {shorten(repr(name))} is {'not for' if name in names else 'missing for'} this model"
                )
            for name, shape in shapes.items():
                entry = stored.get_slice(name)
                if (is_now := tuple(entry.get_shape())) != shape:
                    raise UserError(f"{file}: {name} has the shape {is_now}, and this model needs {shape}")
                if entry.get_dtype() not in _FLOATS:
                    raise UserError(f"{file}: {name} is of the type {entry.get_dtype()}, not floating point")
            tensors = {name: stored.get_tensor(name) for name in shapes}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is damaged ({shorten(error)}); {_AGAIN}") from None
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UserError(f"{file}: {name} holds NaN or infinity; {_AGAIN}")
    verify_checksums(folder, (CONFIG, BASE, WEIGHTS))
    return tensors


def _origin(folder: Path) -> dict[str, str | None]:
    if not (folder / BASE).is_symlink() and not (folder / BASE).exists():
        return {"sha256": None, "model_type": None}
    found = _read_json(_checked_file(folder, BASE, f"{folder / BASE} is not a file; {_AGAIN}"))
    sha256, model_type = found.get("sha256"), found.get("model_type")
    if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256) or not isinstance(model_type, str):
        raise UserError(f"{folder / BASE} is damaged (no hash and type of a model); {_AGAIN}")
    return {"sha256": sha256, "model_type": model_type}


def _checked_file(folder: Path, name: str, missing: str) -> Path:
    file = folder / name
    if not file.is_file():
        raise UserError(missing)
    real = file.resolve()
    if not real.is_relative_to(folder.resolve()) and not STORES.search(real.as_posix()):
        raise UserError(f"{file} links outside its folder, to {real}; copy what belongs there into it")
    return file


def _read_json(file: Path) -> dict:
    try:
        if file.stat().st_size > _JSON_BYTES:
            raise ValueError(f"larger than {_JSON_BYTES} bytes")
        found = json.loads(file.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({shorten(error)}); {_AGAIN}") from None
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30  # so no NaN either


def _are_names(value: object) -> bool:
    return isinstance(value, list) and value != [] and all(isinstance(name, str) and name for name in value)
