"""Low-rank adapters (Hu et al., arXiv:2106.09685) through PEFT: attach, save, load, merge."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from nanogpt import atomic
from nanogpt.errors import BadSetting, UserError
from nanogpt.model import linear_names
from nanogpt.train import TrainSettings, check_schedule

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel  # takes seconds to import: the functions below do it when needed

HF_LAYOUT = {"base": True, "optimized": False}  # GPT-2 in transformers stores (in, out): PEFT's fan_in_fan_out

Targets = Literal["all-linear", "all"] | list[str]
ENDS = {"lm_head", "wte", "embed_tokens"}  # the modules that share their weights in a tied model
MERGE_TOLERANCE = 1e-3  # nats: rounding moves the loss by about 1e-6 in fp32


@dataclass(frozen=True)
class LoraSettings:
    """Section `lora` of params.yaml: the adapter, and what its training does differently from `train`."""

    r: int
    alpha: float
    dropout: float
    target_modules: Targets
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

    Raises UserError for target modules that the architecture does not have or that share their weights.
    """
    from peft import LoraConfig, get_peft_model

    targets = targets_of(model, settings.target_modules)
    torch.manual_seed(seed)  # A is drawn at random, B starts at zero
    config = LoraConfig(r=settings.r, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=targets)
    return get_peft_model(model, config)


def targets_of(model: nn.Module, wanted: Targets) -> list[str]:
    """The leaf names of the modules to adapt.

    "all-linear" are those of the blocks, without the head; "all" adds the head and the embeddings,
    which a second domain needs where it uses tokens that the first one hardly has.
    """
    if wanted == "all-linear":
        return linear_names(model)
    known = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Embedding)
    }
    wanted = sorted(known) if wanted == "all" else wanted
    for name in wanted:
        if name not in known:
            choice = ", ".join(sorted(known))
            raise UserError(
                f"lora.target_modules: {model.config.arch} has no module {name!r}; it has {choice}, or write all-linear"
            )
    return list(wanted)


def save(adapted: "PeftModel", folder: Path | str, base: Path | str) -> None:
    """Write the adapter in PEFT's own format, naming the Hugging Face model folder it belongs to."""
    arch = adapted.get_base_model().config.arch
    with atomic.folder(folder) as target:
        adapted.save_pretrained(target, save_embedding_layers=False)
        (target / "README.md").unlink(missing_ok=True)  # PEFT's empty form of a model card
        file = target / "adapter_config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        config |= {
            "base_model_name_or_path": str(base),
            "auto_mapping": None,
            "task_type": "CAUSAL_LM",
            "fan_in_fan_out": HF_LAYOUT[arch],
        }
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load(folder: Path | str, model: nn.Module) -> "PeftModel":
    """Put a saved adapter on `model`, in place; eval mode, nothing trainable.

    Raises UserError where the folder holds no adapter, or one for another architecture or shape.
    """
    from peft import PeftModel, get_peft_model_state_dict

    config = _read_config(folder)
    if config.fan_in_fan_out != HF_LAYOUT[model.config.arch]:
        raise UserError(
            f"{folder} is an adapter for the other architecture than the {model.config.arch} model it is put on; "
            f"it was trained on {config.base_model_name_or_path}"
        )
    config.task_type, config.fan_in_fan_out = None, False  # our modules: plain ones, weights (out, in)
    saved = _weight_names(folder)
    try:
        adapted = PeftModel.from_pretrained(model, folder, config=config).eval()
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
        raise UserError(_misfit(folder, reason, config)) from None
    odd = saved ^ get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
    if odd:  # PEFT leaves out what it has no place for and starts anew what is missing
        raise UserError(_misfit(folder, f"{min(odd)} is on one side only", config))
    return adapted


def base_of(folder: Path | str) -> Path:
    """The model folder that an adapter was trained on, as written in it."""
    base = _read_config(folder).base_model_name_or_path
    if not base:
        raise UserError(f"{folder}/adapter_config.json does not name its model; name it with --base-checkpoint")
    return Path(base)


@torch.no_grad()
def merge(adapted: "PeftModel") -> tuple[nn.Module, dict[str, float]]:
    """Add the adapter into the weights, W + (alpha / r) B A, and prove that nothing else changed.

    Random tokens go through the model before and after. Where embedding and head share their weights
    and the adapter is on one of them, they part: it changes each on its own. Returns the plain model and the greatest
    and mean difference of logits and the change of loss in nats. Raises UserError where the loss
    moves by more than MERGE_TOLERANCE.
    """
    adapted.eval()
    config = adapted.get_base_model().config
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(config.vocab_size, (4, config.block_size + 1), generator=generator)
    ids, targets = tokens[:, :-1], tokens[:, 1:]
    logits, loss = adapted(ids), adapted(ids, targets)
    if ENDS & set(adapted.peft_config["default"].target_modules):
        _untie(adapted.get_base_model())
    model = adapted.merge_and_unload().eval()
    difference = (model(ids) - logits).abs()
    moved = (model(ids, targets) - loss).abs().item()
    if not moved <= MERGE_TOLERANCE:
        raise UserError(f"merging moved the loss by {moved:.2g} nats; nothing was written: train the adapter again")
    return model, {
        "max_abs_logit_difference": difference.max().item(),
        "mean_abs_logit_difference": difference.mean().item(),
        "loss_change_nats": moved,
    }


def _untie(model: nn.Module) -> None:
    """Give the head weights of its own, equal to those it shared."""
    if model.config.tie_embeddings:
        head = getattr(model.lm_head, "base_layer", model.lm_head)
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        model.config = dataclasses.replace(model.config, tie_embeddings=False)


def _read_config(folder: Path | str) -> "LoraConfig":
    from peft import LoraConfig

    if not (Path(folder) / "adapter_config.json").is_file():
        raise UserError(f"{folder} holds no adapter (no adapter_config.json); train one with `dvc repro lora-finetune`")
    try:
        config = LoraConfig.from_pretrained(folder)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{folder}/adapter_config.json is damaged ({error}); train the adapter again") from None
    if not isinstance(config, LoraConfig):
        raise UserError(f"{folder} holds an adapter of the kind {config.peft_type}, not LoRA; name another")
    return config


def _weight_names(folder: Path | str) -> set[str]:
    file = Path(folder) / "adapter_model.safetensors"
    if not file.is_file():  # PEFT would look for it on the network
        raise UserError(f"{folder} has no adapter_model.safetensors; train the adapter again")
    try:
        with safe_open(file, "pt") as weights:
            return set(weights.keys())
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is damaged ({error}); train the adapter again") from None


def _misfit(folder: Path | str, reason: str, config: "LoraConfig") -> str:
    return f"{folder} does not fit this model ({reason}); it was trained on {config.base_model_name_or_path}"
