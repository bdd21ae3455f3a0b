"""One optimizer step, and the compiled loss."""

import contextlib
import math

import torch
from torch import Tensor, nn

from nanogpt.hardware import process_group
from nanogpt.hardware.compilation import compile_cached
from nanogpt.hardware.device import autocast
from nanogpt.model.loss import count_learned, head_loss
from nanogpt.training.exchange import Loss, gradients_stay, own_rows
from nanogpt.training.optimizer import Optimizer


def update(
    loss_of: Loss, optimizer: Optimizer, batches: list[tuple[Tensor, Tensor]], grad_clip: float,
    device: torch.device, dtype: torch.dtype,
) -> float:  # fmt: skip
    """Make one optimizer step with the mean gradient of all learned targets of `batches`, clipped to norm `grad_clip`.

    `batches` are pairs (ids, targets), each (B, T) int64; `loss_of` returns the mean loss of one, as a model does.
    `dtype` is that of matrix products. Several processes have rows of each batch each; with `average_gradients` they
    make the same step.
    Returns the mean loss of all processes before the step, in nats per token. If it or a gradient is not finite,
    returns NaN and changes nothing.
    """
    total, learned = 0.0, sum(count_learned(targets) for _, targets in batches)
    for i, batch in enumerate(batches):
        ids, targets = own_rows(*batch)
        # So that the mean over processes of the sum over batches is that of all targets.
        weight = process_group.size() * count_learned(targets) / max(1, learned)
        with gradients_stay(loss_of) if i < len(batches) - 1 else contextlib.nullcontext():
            with autocast(device, dtype):
                loss = loss_of(_move(ids, device), _move(targets, device)) * weight
            loss.backward()
        total += loss.item()
    trainable = [p for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(trainable, grad_clip).item()
    total = process_group.mean(total if math.isfinite(norm) else math.nan)
    if math.isfinite(total):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total if math.isfinite(total) else math.nan


def _move(ids: Tensor, device: torch.device) -> Tensor:
    """Copy ids to the device; to a GPU while it still computes, which pinned memory allows."""
    return ids.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else ids.to(device)


def compile_loss(model: nn.Module) -> Loss:
    """Return `model(ids, targets)` with all but the head compiled, whose kernels are as fast as compiled ones."""
    hidden = compile_cached(model.hidden)
    return lambda ids, targets: head_loss(model.lm_head, hidden(ids), targets)
