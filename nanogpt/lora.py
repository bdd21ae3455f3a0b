"""Low-rank adapters through PEFT: attach, save, load.

LoRA (Hu et al., arXiv:2106.09685), rsLoRA (Kalajdzievski, arXiv:2312.03732), which counts the adapter
alpha / sqrt(r) times in place of alpha / r, and DoRA (Liu et al., arXiv:2402.09353), which learns the
length of every row of a weight apart from its direction.
"""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from nanogpt import adapter
from nanogpt.checkpoint.folder import load_checkpoint
from nanogpt.checkpoint.identity import model_identity
from nanogpt.data.tokens.tokenizer import Tokenizer
from nanogpt.model.build import linear_names
from nanogpt.runtime import atomic
from nanogpt.runtime.errors import BadSetting, UserError
from nanogpt.train import TrainSettings, check_schedule

if TYPE_CHECKING:
    from peft import PeftModel  # takes seconds to import: the functions below do it when needed

MODEL_TYPES = {"base": "gpt2", "optimized": "llama"}

Targets = Literal["all-linear", "all"] | list[str]


@dataclass(frozen=True)
class LoraSettings:
    """Section `lora` of params.yaml: the adapter, and what its training does differently from `train`."""

    r: int
    alpha: float
    dropout: float
    target_modules: Targets
    kind: Literal["lora", "rslora", "dora"]
    max_steps: int
    batch_size: int
    lr: float
    min_lr: float
    warmup_steps: int

    def __post_init__(self) -> None:
        if self.r < 1:
            raise BadSetting("r", self.r, "must be at least 1", "choose 4 to 64")
        if self.alpha <= 0:
            raise BadSetting("alpha", self.alpha, "must be above 0", "r or twice r is usual")
        if not 0 <= self.dropout < 1:
            raise BadSetting("dropout", self.dropout, "not a probability below 1", "choose 0.0 to 0.1")
        if not self.target_modules:
            raise BadSetting("target_modules", self.target_modules, "names no module", "write all-linear")
        check_schedule(self)

    def training(self, train: TrainSettings) -> TrainSettings:
        """The training settings of a fine-tuning run: `train` with this section's own figures."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if hasattr(train, f.name)}
        return dataclasses.replace(train, **own)


def attach(model: nn.Module, settings: LoraSettings, seed: int) -> "PeftModel":
    """Freeze `model` and put a trainable adapter on its target modules, in place.

    Raises UserError for target modules that the architecture does not have and for a rank above its width.
    """
    from peft import LoraConfig, get_peft_model

    targets, width = targets_of(model, settings.target_modules), model.config.n_embd
    if settings.r > width:
        raise BadSetting("lora.r", settings.r, f"above the model's width of {width}", "choose 4 to 64")
    torch.manual_seed(seed)  # A is drawn at random, B starts at zero
    config = LoraConfig(
        r=settings.r, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=targets,
        use_rslora=settings.kind == "rslora", use_dora=settings.kind == "dora",
    )  # fmt: skip
    return get_peft_model(model, config)


def targets_of(model: nn.Module, wanted: Targets) -> list[str]:
    """The leaf names of the modules to adapt.

    "all-linear" are those of the blocks, without the head; "all" adds the head and the embeddings,
    which a second domain needs where it uses tokens that the first one hardly has.
    """
    if wanted == "all-linear":
        return linear_names(model)
    known = {name.rpartition(".")[2] for name in _adaptable(model)}
    wanted = sorted(known) if wanted == "all" else wanted
    for name in wanted:
        if name not in known:
            choice = ", ".join(sorted(known))
            raise UserError(
                f"lora.target_modules: {model.config.arch} has no module {name!r}; it has {choice}, or write all-linear"
            )
    return list(wanted)


def save(
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
    with atomic.replace_folder(folder, adapter.CONFIG) as target:
        adapted.save_pretrained(target, save_embedding_layers=False)
        (target / "README.md").unlink(missing_ok=True)  # PEFT's empty form of a model card
        if card is not None:
            (target / "README.md").write_text(card, encoding="utf-8", newline="\n")
        config = json.loads((target / adapter.CONFIG).read_text(encoding="utf-8"))
        config |= {
            "base_model_name_or_path": name(base),
            "auto_mapping": None,
            "task_type": "CAUSAL_LM",
            "fan_in_fan_out": model_type == "gpt2",  # transformers stores GPT-2's weights as (in, out)
            "target_modules": sorted(config["target_modules"]),  # a set in PEFT: its order changes from run to run
        }
        _write(target / adapter.CONFIG, config)
        _write(target / adapter.BASE, {"model_type": model_type, "sha256": sha256 or model_identity(base)})


def check_out(folder: Path | str) -> None:
    """Raise UserError where `save` would erase anything but an older adapter."""
    atomic.check_replaceable(folder, adapter.CONFIG)


def open(folder: Path | str, base: Path | str | None = None) -> tuple["PeftModel", Tokenizer]:
    """The model that an adapter was trained on with the adapter on it, and the tokenizer.

    `base` is that model's folder, or else the one that the adapter names. Raises UserError where it
    is another model than the adapter was trained on, and for whatever `load` refuses.
    """
    adapter.read(folder)
    base = base_of(folder) if base is None else base
    model, tok = load_checkpoint(base)
    check_base(folder, base)
    return load(folder, model), tok


def load(folder: Path | str, model: nn.Module) -> "PeftModel":
    """Put a saved adapter on `model`, in place; eval mode, nothing trainable.

    The caller answers for `model` being the right one (see `check_base`). Raises UserError where the
    folder holds no adapter, one for another architecture or shape, or one that is not safe to load;
    `model` is as it was then.
    """
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    found, arch = adapter.read(folder), model.config.arch
    if found.model_type not in (None, MODEL_TYPES[arch]):
        raise UserError(
            f"{folder} is an adapter for the other architecture than the {arch} model it is put on; "
            f"it was trained on {found.origin}"
        )
    try:
        tensors = adapter.weights(folder, _shapes(model, found))
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
    found = adapter.read(folder)
    if found.sha256 not in (None, (here := model_identity(base))):
        raise UserError(
            f"{folder} was trained on {found.origin}, and {base} is another model ({here[:12]}): merged already, or "
            "trained anew; name the adapter's own with --base-checkpoint, or train the adapter again"
        )


def base_of(folder: Path | str) -> Path:
    """The model folder that an adapter was trained on: as it is named from here, or else beside the adapter.

    Raises UserError where it is in neither place, and for an adapter from elsewhere, which cannot tell.
    """
    found = adapter.read(folder)
    if not found.base or not found.sha256:
        raise UserError(f"{folder} does not say which model it belongs to; name it with --base-checkpoint")
    named = (Path(found.base), Path(folder).resolve().parent / Path(found.base).name)
    there = [base for base in named if base.exists()]
    if there:
        return next((base for base in there if model_identity(base) == found.sha256), there[0])
    raise UserError(f"{folder} was trained on {found.origin}, which is not here; name it with --base-checkpoint")


def name(base: Path | str) -> str:
    """How to call a model anywhere: by its path in the project, or by its name where it lies outside."""
    base, project = Path(os.path.abspath(base)), Path.cwd()
    return base.relative_to(project).as_posix() if base.is_relative_to(project) else base.name


def _write(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _adaptable(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Embedding)}


def _shapes(model: nn.Module, found: adapter.Adapter) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an adapter's tensors on `model`, as PEFT writes them."""
    r, modules, shapes = found.r, _adaptable(model), {}
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
