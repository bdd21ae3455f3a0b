"""Dropout whose random numbers are cheap on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def dropout(x: Tensor, p: float) -> Tensor:
    """Zero each number of `x` (any shape, any float dtype) with probability `p`, and scale the others to keep the mean.

    torch draws one number for each element in turn, which on a CPU takes longer than the products around it. Here eight
    elements share 64 random bits: on a CPU `p` is rounded to a multiple of 1/256, and the scale is that of the rounded
    one. Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html.
    """
    dropped = round(256 * p)  # of 256
    if x.device.type != "cpu" or dropped in (0, 256):
        return F.dropout(x, p) if p else x
    bits = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
    keep = bits.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
    return x * keep * (256 / (256 - dropped))


class Dropout(nn.Module):
    """`dropout` in training, the identity in evaluation."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return dropout(x, self.p) if self.training else x
