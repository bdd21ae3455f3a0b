"""The output head and the cross entropy of its logits, which never need to exist all at once."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Reduction = Literal["mean", "none"]

IGNORED = -100
# At 50k ids, 128 tokens' logits are 26 MB in fp32. glibc gives buffers past 32 MB back after each use, and the fresh
# pages of the next one cost more than the sums over them: half the speed was measured at 256 tokens in bf16.
TOKENS_AT_ONCE = 128


def head_loss(head: nn.Module, hidden: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Cross entropy in nats of the head's logits, computed in fp32 or wider.

    head: maps (..., D) to (..., V) and is called, never read, so that an adapter around it takes part.
    hidden: (B, T, D); targets: (B, T) int64, where -100 is ignored.
    Returns a scalar, the mean over the targets not ignored (0 where all are), or with "none" (B, T) with 0 at those
    ignored.
    """
    rows, ids = hidden.flatten(0, 1), targets.flatten()  # (B*T, D), (B*T,)
    # Gradients keep every block's logits anyway, so blocks would only add their overhead.
    size = len(ids) if torch.is_grad_enabled() else TOKENS_AT_ONCE
    losses = torch.cat(
        [
            F.cross_entropy(_widened(head(row)), target, ignore_index=IGNORED, reduction="none")
            for row, target in zip(rows.split(size), ids.split(size), strict=True)
        ]
    )
    if reduction == "none":
        return losses.view_as(targets)
    return losses.sum() / (ids != IGNORED).sum().clamp(min=1)


def _widened(logits: Tensor) -> Tensor:
    """Half precision made fp32; fp32 and fp64 as they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
