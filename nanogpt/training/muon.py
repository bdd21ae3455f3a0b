"""Muon for matrices (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon), with rows of equal size.

Its first part is that of `torch.optim.Muon`, but in the dtype that the machine is fast in: torch's iterates in bfloat16
always, which takes seconds a step on processors without it. The second is NorMuon (Li et al. 2025, arXiv:2510.05491).
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

# Newton-Schulz iterations. Five are usual; with three a step of 2,048 tokens takes a fifth longer than AdamW's.
ITERATIONS = 3
COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of the odd polynomial that takes singular values in (0, 1] to about 1
RMS = 0.2  # of AdamW's steps, in learning rates


class Muon(torch.optim.Optimizer):
    """Moves each matrix along its momentum, with all singular values made about equal and then all rows.

    `betas` are the memory of the momentum, and of the rows' mean squares. Steps have the size of AdamW's, so that both
    have the same learning rate and weight decay (Liu et al. 2025, arXiv:2502.16982), or less where few iterations leave
    many singular values small: NorMuon's fixed size ended 1% higher on TinyStories. `dtype` is that of the products.
    """

    def __init__(
        self, matrices: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], weight_decay: float,
        dtype: torch.dtype,
    ):  # fmt: skip
        super().__init__(matrices, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "lr_multiple": 1.0})
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:
        """Update all matrices that have a gradient, with Nesterov momentum."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state.update(momentum=torch.zeros_like(p), row_squares=p.new_zeros(p.shape[0], 1))
                momentum = state["momentum"].lerp_(p.grad, 1 - beta1)
                step = orthogonalize(p.grad.lerp(momentum, beta1).to(self.dtype)).to(p.dtype)
                norm = step.norm()
                squares = state["row_squares"].lerp_(step.square().mean(1, keepdim=True), 1 - beta2)
                step /= squares.sqrt().clamp(min=1e-8)  # without a correction for the start: the next line cancels it
                step *= norm / step.norm().clamp(min=1e-8)
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
