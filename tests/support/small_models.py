"""Models of a few hundred weights whose logits differ visibly, in every shape that matters."""

import pytest
import torch
from torch import nn

from nanogpt.model.build import build_model
from nanogpt.model.config import ModelConfig


def tiny(arch: str, **changes) -> ModelConfig:
    """A config small enough for exact checks; two query heads share a head of keys and values."""
    shape = {
        "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "block_size": 16, "dropout": 0.0,
        "tie_embeddings": False, "qk_norm": False, "vocab_size": 64,
    }  # fmt: skip
    return ModelConfig(arch=arch, **(shape | changes))


SHAPES = {
    "base": tiny("base"),
    "base-tied": tiny("base", tie_embeddings=True),
    "mha": tiny("optimized", n_kv_head=4),
    "gqa": tiny("optimized", n_kv_head=2),
    "mqa": tiny("optimized", n_kv_head=1),
    "qk-norm": tiny("optimized", qk_norm=True),
    "gqa-tied": tiny("optimized", n_kv_head=2, tie_embeddings=True),
}

every_shape = pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)

each_arch = pytest.mark.parametrize("arch", ["base", "optimized"])


def lively(config: ModelConfig, seed: int = 0) -> nn.Module:
    """A model in eval mode in which every parameter matters: biases, norms' gains and all positions.

    Embeddings are small enough for the norms' epsilon to show.
    """
    torch.manual_seed(seed)
    model = build_model(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.normal_(std=0.05 if name.endswith(("wte.weight", "wpe.weight", "tokens.weight")) else 0.25)
    return model


def tokens(config: ModelConfig, rows: int = 2, length: int | None = None, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(config.vocab_size, (rows, length or config.block_size), generator=generator)
