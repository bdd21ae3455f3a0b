"""One optimizer step, and the compiled loss."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from nanogpt.hardware.compilation import compile_cached
from nanogpt.hardware.device import autocast
from nanogpt.model.loss import head_loss
from nanogpt.training.optimizer import Optimizer


def update(
    loss_of: Callable[[Tensor, Tensor], Tensor], optimizer: Optimizer, batches: list[tuple[Tensor, Tensor]],
    grad_clip: float, device: torch.device, dtype: torch.dtype,
) -> float:  # fmt: skip
    """Make one optimizer step with the mean gradient of `batches`, clipped to norm `grad_clip`.

    `batches` are pairs (ids, targets), each (B, T) int64; `loss_of` returns their mean loss, as a model does. `dtype`
    is that of matrix products.
    Returns the mean loss before the step, in nats per token. If it or the gradient is not finite, returns NaN and
    changes nothing.
    """
    total = 0.0
    for ids, targets in batches:
        with autocast(device, dtype):
            loss = loss_of(ids.to(device), targets.to(device)) / len(batches)
        loss.backward()
        total += loss.item()
    trainable = [p for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(trainable, grad_clip).item()
    finite = math.isfinite(total) and math.isfinite(norm)
    if finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total if finite else math.nan


def compile_loss(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """Return `model(ids, targets)` with all but the head compiled, whose kernels are as fast as compiled ones."""
    hidden = compile_cached(model.hidden)
    return lambda ids, targets: head_loss(model.lm_head, hidden(ids), targets)
