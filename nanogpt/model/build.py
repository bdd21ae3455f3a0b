"""Builds a model of either architecture, and counts its parameters and operations."""

import contextlib
import dataclasses
from collections.abc import Iterator

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from nanogpt.model.config import ModelConfig, ModelSettings
from nanogpt.model.gpt2 import GPT2
from nanogpt.model.language_model import LanguageModel
from nanogpt.model.llama import Llama, Qwen3

ARCHITECTURES = {"base": GPT2, "optimized": Llama}


def model_class(config: ModelSettings) -> type[LanguageModel]:
    """The class of a model of that shape: GPT2, Llama, or Qwen3 if queries and keys are normalised."""
    return Qwen3 if config.qk_normed else ARCHITECTURES[config.arch]


def build_model(config: ModelConfig) -> nn.Module:
    """Build a model of that shape with random weights from torch's generator, in fp32 on the default device."""
    return model_class(config)(config)


class _DrawNothing(TorchFunctionMode):
    """Skips drawing initial weights, for which torch would import its compiler on the meta device: a second or two."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return None if getattr(func, "__name__", "") == "normal_" else func(*args, **(kwargs or {}))


@contextlib.contextmanager
def shapes_alone() -> Iterator[None]:
    """Let models that are built in the block have parameters of the right shapes, and no memory for them."""
    with torch.device("meta"), _DrawNothing():
        yield


def new_model(settings: ModelSettings, vocab_size: int, seed: int) -> nn.Module:
    """Build a model as in params.yaml for a tokenizer's vocabulary; its weights depend on the seed alone."""
    torch.manual_seed(seed)
    return build_model(model_config(settings, vocab_size))


def model_config(settings: ModelSettings, vocab_size: int) -> ModelConfig:
    """The complete shape of a model as in params.yaml, for a tokenizer's vocabulary."""
    return ModelConfig(**dataclasses.asdict(settings), vocab_size=vocab_size)


def count_parameters(model: nn.Module) -> int:
    """Number of parameters; a tied embedding counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def model_flops(config: ModelConfig, tokens: int) -> float:
    """Floating point operations of a training step on `tokens` tokens, forward and backward.

    6 for each weight of a matrix product and token, and 12 * layers * block * width a token for attention
    (Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, appendix B).
    """
    with shapes_alone():
        model = build_model(config)
    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    return tokens * (6.0 * weights + 12.0 * config.n_layer * config.block_size * config.n_embd)


def linear_names(model: nn.Module) -> list[str]:
    """Leaf names of the linear modules inside the blocks, which an adapter may target; the head is not among them."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name != "lm_head"]
    return list(dict.fromkeys(name.rpartition(".")[2] for name in linear))
