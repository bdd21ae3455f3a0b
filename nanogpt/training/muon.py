"""Muon for matrices (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

As `torch.optim.Muon`, but in the dtype that the machine is fast in: torch's iterates in bfloat16 always, which takes
seconds a step on processors without it.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
# Newton-Schulz iterations. Five are usual; with three a step of 2,048 tokens takes a fifth longer than AdamW's.
ITERATIONS = 3
COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of the odd polynomial that takes singular values in (0, 1] to about 1
RMS = 0.2  # of AdamW's steps, in learning rates


class Muon(torch.optim.Optimizer):
    """Moves each matrix along its momentum with all singular values made about equal.

    Steps have the size of AdamW's, so that both have the same learning rate and weight decay (Liu et al. 2025,
    arXiv:2502.16982). `dtype` is that of the iterations' products.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, weight_decay: float, dtype: torch.dtype):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "lr_multiple": 1.0})
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:
        """Update all matrices that have a gradient, with Nesterov momentum."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                momentum = state["momentum"].lerp_(p.grad, 1 - MOMENTUM)
                step = orthogonalize(p.grad.lerp(momentum, MOMENTUM).to(self.dtype))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(step, alpha=-group["lr"] * RMS * max(p.shape) ** 0.5)


def orthogonalize(x: Tensor) -> Tensor:
    """Return U S V' for an (m, n) matrix U D V', in its dtype, with S near 1 where D is not small against its norm."""
    a, b, c = COEFFICIENTS
    wide = x if x.shape[0] <= x.shape[1] else x.T  # the smaller products
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if x.shape[0] <= x.shape[1] else wide.T
