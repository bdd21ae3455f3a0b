"""Memory of a training run on a CPU, before it starts: what it needs at least, and an estimate of its peak."""

import sys
from dataclasses import replace

import torch
from torch import nn

from nanogpt.hardware import memory
from nanogpt.model.attention import MATMUL_UP_TO
from nanogpt.model.build import build_model, count_parameters, shapes_alone
from nanogpt.model.config import ModelConfig
from nanogpt.model.loss import KEPT_BYTES
from nanogpt.runtime.errors import BadSetting, UserError

MIB = 1 << 20
IMPORTS = 90 * MIB  # modules that are loaded later: AdamW's part of torch, oneDNN's kernels
HEAP = 1.35  # measured: bytes of the heap for each byte in use at the peak, see `keep_freed_memory`
WARN_ABOVE = 0.85  # of the free memory: measured peaks were within 40% of the estimate


def check_minimum(
    config: ModelConfig, batch_size: int = 1, section: str = "train", frozen: bool = False,
    free_mib: float | None = None,
) -> None:  # fmt: skip
    """Raise UserError if training certainly needs more than `free_mib`, by default what this process can still take.

    Counted are weights, gradients and the one moment that Muon keeps (AdamW keeps two), and each block's input, all in
    fp32; with `frozen` weights, as under an adapter, only the weights and one input. `section` of params.yaml has the
    `batch_size`.
    """
    free = (memory.available_mib() if free_mib is None else free_mib) * MIB
    per_sequence = 4 * config.block_size * config.n_embd * (1 if frozen else config.n_layer)
    fixed = _count_weights(config) * (4 if frozen else 12)
    if (needed := fixed + per_sequence) > free:
        raise UserError(
            f"the model of section {section} is too large for the memory here: it needs at least {_gib(needed)}, and "
            f"{_gib(free)} are free; choose a smaller n_embd, n_layer or block_size, or a smaller vocabulary"
        )
    if (needed := fixed + batch_size * per_sequence) > free:
        reason = f"training needs at least {_gib(needed)} of memory, and {_gib(free)} are free"
        remedy = f"choose less than {int((free - fixed) / per_sequence) + 1}; train.grad_accum makes up for it"
        raise BadSetting(f"{section}.batch_size", batch_size, reason, remedy)


def warn_of_memory(model: nn.Module, batch_size: int, dtype: torch.dtype, section: str, free_mib: float) -> None:
    """Warn on stderr if the estimated peak of training `model` is close to `free_mib` or above it."""
    if (wanted := estimate_training_mib(model, batch_size, dtype)) > WARN_ABOVE * free_mib:
        print(
            f"warning: training takes about {_gib(wanted * MIB)} of memory, and {_gib(free_mib * MIB)} are free; if it "
            f"is killed, lower {section}.batch_size = {batch_size}",
            file=sys.stderr,
        )


def estimate_training_mib(model: nn.Module, batch_size: int, dtype: torch.dtype) -> float:
    """Estimate the MiB that training `model` on a CPU takes at its peak, besides what this process has already.

    `dtype` is that of matrix products. Counted are gradients and AdamW's moments; for each token the inputs and outputs
    of the blocks' linear layers, some more for what lies between them, and attention's probabilities where they are
    held; and the head's exponentials and gradient, with an adapter also its weight with that in it.
    """
    tokens, vocab_size = batch_size * model.config.block_size, model.config.vocab_size
    layers = [
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and "lm_head" not in name and "lora_" not in name
    ]
    features = sum(layer.in_features + layer.out_features for layer in layers)
    scores = model.config.n_layer * model.config.n_head * model.config.block_size
    activations = tokens * features * (0.5 + dtype.itemsize)
    if model.config.block_size <= MATMUL_UP_TO:
        activations += tokens * scores * dtype.itemsize
    # see `FusedLoss`: exponentials, and the gradient of a weight before it is a parameter's
    copies = 1 if type(model.lm_head) is nn.Linear else 3
    head = min(tokens * vocab_size * dtype.itemsize, KEPT_BYTES) + copies * model.lm_head.weight.nbytes
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    return (IMPORTS + 2 * trained + HEAP * (trained + activations + head)) / MIB


def _count_weights(config: ModelConfig) -> int:
    """Number of parameters of a shape, without memory for them and without building each layer."""
    try:
        with shapes_alone():
            one, two = (count_parameters(build_model(replace(config, n_layer=n))) for n in (1, 2))
    except (RuntimeError, TypeError, OverflowError):  # a tensor of more than 2^63 bytes
        return 2**63
    return one + (config.n_layer - 1) * (two - one)


def _gib(nbytes: float) -> str:
    return f"{nbytes / 1024**3:,.2f} GiB"
