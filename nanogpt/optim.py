"""AdamW with decay on matrices only, and the learning rate's way through a run."""

import math

import torch
from torch import nn


def adamw(model: nn.Module, lr: float, betas: tuple[float, float], weight_decay: float) -> torch.optim.AdamW:
    """Fused AdamW over the parameters that learn (Loshchilov & Hutter, arXiv:1711.05101).

    Matrices decay; vectors (norms, biases) do not.
    """
    learning = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learning if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in learning if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, fused=True)


def learning_rate(step: int, *, peak: float, floor: float, warmup_steps: int, max_steps: int) -> float:
    """Linear warmup to `peak`, then a cosine down to `floor` at the last step (arXiv:1608.03983).

    `step` counts from 0.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, max_steps - 1 - warmup_steps)
    return floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi * min(1.0, progress)))
