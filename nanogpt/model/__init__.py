"""The two architectures behind one interface: `build(config)(ids, targets)`."""

import dataclasses

import torch
from torch import nn

from nanogpt.model.base import Base
from nanogpt.model.cache import Cache
from nanogpt.model.config import ModelConfig, ModelSettings
from nanogpt.model.optimized import Optimized, mlp_width

ARCHITECTURES = {"base": Base, "optimized": Optimized}


def build(config: ModelConfig) -> nn.Module:
    """A model of this shape with fresh weights (fp32) from torch's random state."""
    return ARCHITECTURES[config.arch](config)


def new(settings: ModelSettings, vocab_size: int, seed: int) -> nn.Module:
    """A model as params.yaml says, for a tokenizer's vocabulary, with weights that depend on the seed alone."""
    torch.manual_seed(seed)
    return build(ModelConfig(**dataclasses.asdict(settings), vocab_size=vocab_size))


def count_parameters(model: nn.Module) -> int:
    """Numbers in the model's weights, shared ones once."""
    return sum(p.numel() for p in model.parameters())


def linear_names(model: nn.Module) -> list[str]:
    """Leaf names of the linear modules in the blocks, in order; the head is not among them."""
    names = (name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name != "lm_head")
    return list(dict.fromkeys(name.rpartition(".")[2] for name in names))


__all__ = ["Cache", "ModelConfig", "ModelSettings", "build", "count_parameters", "linear_names", "mlp_width", "new"]
