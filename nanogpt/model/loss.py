"""Output head and cross entropy."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

IGNORED = -100  # a target that is not scored
BLOCK_LOGITS = 2**25  # logits held at once in evaluation: 128 MiB of fp32


def head_loss(
    head: nn.Module, hidden: torch.Tensor, targets: torch.Tensor, reduction: Literal["mean", "none"]
) -> torch.Tensor:
    """Cross entropy in nats of `head(hidden)` against `targets`, in fp32 or better.

    `hidden` is (B, T, D), `targets` (B, T) int64 with -100 where nothing is scored. "mean" is over
    scored targets; "none" gives (B, T) with 0 at the others. The head is called as a module, so an
    adapter on it takes part. Without gradients the logits are formed block by block.
    """
    flat, wanted = hidden.flatten(0, 1), targets.flatten()  # (B T, D), (B T,)
    if torch.is_grad_enabled():
        losses = _losses(head(flat), wanted)
    else:
        rows = max(1, BLOCK_LOGITS // _width(head))
        blocks = zip(flat.split(rows), wanted.split(rows), strict=True)
        losses = torch.cat([_losses(head(h), t) for h, t in blocks])
    if reduction == "none":
        return losses.view_as(targets)
    return losses.sum() / (wanted != IGNORED).sum()


def _losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    return F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")


def _width(head: nn.Module) -> int:
    return head.out_features
