"""Attaches a trainable low-rank adapter to a model, through PEFT.

LoRA (Hu et al., arXiv:2106.09685), rsLoRA (Kalajdzievski, arXiv:2312.03732), scaled by alpha / sqrt(r), not alpha / r,
and DoRA (Liu et al., arXiv:2402.09353), which learns the length of every row of a weight apart from its direction.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from nanogpt.model.build import linear_names
from nanogpt.runtime.errors import BadSetting

if TYPE_CHECKING:
    from peft import PeftModel  # takes seconds to import: the functions below do it when needed

    from nanogpt.lora.settings import LoraSettings


def attach_adapter(
    model: nn.Module, settings: "LoraSettings", seed: int, tokens: Sequence[int] | None = None
) -> "PeftModel":
    """Freeze `model` and put a trainable adapter on its target modules, in place.

    With the targets "all" it holds the embeddings of `tokens` too, by default of all, and their rows of the head.
    Raises UserError for target modules that the architecture does not have and for a rank above its width.
    """
    from peft import LoraConfig, get_peft_model

    from nanogpt.lora.layer import LoraLinear

    targets = check_adapter(model, settings)
    rows = None
    if settings.target_modules == "all":
        trained = range(model.config.vocab_size) if tokens is None else tokens
        rows = {name: list(trained) for name in embedding_ends(model)}
    torch.manual_seed(seed)  # A is drawn at random, B starts at zero
    config = LoraConfig(
        r=settings.r, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=targets,
        use_rslora=settings.kind == "rslora", use_dora=settings.kind == "dora",
        trainable_token_indices=rows,
    )  # fmt: skip
    config._register_custom_module({nn.Linear: LoraLinear})
    return get_peft_model(model, config)


def check_adapter(model: nn.Module, settings: "LoraSettings") -> list[str]:
    """Return the leaf names of the modules to put LoRA on. Raises as `attach_adapter`, also on the meta device.

    "all-linear" and "all" are those of the blocks, without the head. An embedding or a head with which others are tied
    is refused: PEFT merges such an adapter into both, which then compute something else.
    """
    wanted, config = settings.target_modules, model.config
    if settings.r > config.n_embd:
        raise BadSetting("lora.r", settings.r, f"above the model's width of {config.n_embd}", "choose 4 to 64")
    if wanted in ("all-linear", "all"):
        return linear_names(model)
    known = {name.rpartition(".")[2] for name in adaptable_modules(model)}
    ends = {model.hf.embedding.rpartition(".")[2], "lm_head"} if config.tie_embeddings else set()
    for name in wanted:
        if name not in known:
            choice = ", ".join(sorted(known - ends))
            reason = f"{config.arch} has no module {name!r}"
            raise BadSetting("lora.target_modules", wanted, reason, f"choose from {choice}, or write all-linear")
        if name in ends:
            reason = f"{name} shares its weights with the model's other end, so that no adapter can be merged into it"
            remedy = "write all, which trains the rows of the new text's tokens, or pretrain with tie_embeddings: false"
            raise BadSetting("lora.target_modules", wanted, reason, remedy)
    return list(wanted)


def embedding_ends(model: nn.Module) -> list[str]:
    """The names of the modules whose rows belong to tokens: the embedding, and the head unless the two are tied."""
    return [model.hf.embedding, *([] if model.config.tie_embeddings else ["lm_head"])]


def adaptable_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that an adapter can be attached to, linear layers and embeddings, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Embedding)}
