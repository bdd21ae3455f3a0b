"""Attaches a trainable low-rank adapter to a model, through PEFT.

LoRA (Hu et al., arXiv:2106.09685), rsLoRA (Kalajdzievski, arXiv:2312.03732), scaled by alpha / sqrt(r), not alpha / r,
and DoRA (Liu et al., arXiv:2402.09353), which learns the length of every row of a weight apart from its direction.
"""

from typing import TYPE_CHECKING

import torch
from torch import nn

from nanogpt.model.build import linear_names
from nanogpt.runtime.errors import BadSetting

if TYPE_CHECKING:
    from peft import PeftModel  # takes seconds to import: the functions below do it when needed

    from nanogpt.lora.settings import LoraSettings


def attach_adapter(model: nn.Module, settings: "LoraSettings", seed: int) -> "PeftModel":
    """Freeze `model` and put a trainable adapter on its target modules, in place.

    Raises UserError for target modules that the architecture does not have and for a rank above its width.
    """
    from peft import LoraConfig, get_peft_model

    targets = check_adapter(model, settings)
    torch.manual_seed(seed)  # A is drawn at random, B starts at zero
    config = LoraConfig(
        r=settings.r, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=targets,
        use_rslora=settings.kind == "rslora", use_dora=settings.kind == "dora",
    )  # fmt: skip
    return get_peft_model(model, config)


def check_adapter(model: nn.Module, settings: "LoraSettings") -> list[str]:
    """Return the leaf names of the modules to adapt. Raises as `attach_adapter`, also on the meta device.

    "all-linear" are those of the blocks, without the head; "all" adds the head and the embeddings,
    which a second domain needs if it uses tokens that are rare in the first.
    """
    wanted, width = settings.target_modules, model.config.n_embd
    if settings.r > width:
        raise BadSetting("lora.r", settings.r, f"above the model's width of {width}", "choose 4 to 64")
    if wanted == "all-linear":
        return linear_names(model)
    known = {name.rpartition(".")[2] for name in adaptable_modules(model)}
    wanted = sorted(known) if wanted == "all" else wanted
    for name in wanted:
        if name not in known:
            choice = ", ".join(sorted(known))
            reason = f"{model.config.arch} has no module {name!r}"
            raise BadSetting("lora.target_modules", wanted, reason, f"choose from {choice}, or write all-linear")
    return list(wanted)


def adaptable_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that an adapter can be attached to, linear layers and embeddings, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Embedding)}
