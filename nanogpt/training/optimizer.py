"""AdamW with weight decay on matrices only."""

import torch
from torch import nn


def build_adamw(model: nn.Module, lr: float, betas: tuple[float, float], weight_decay: float) -> torch.optim.AdamW:
    """Build a fused AdamW for the parameters that require gradients (Loshchilov & Hutter 2017, arXiv:1711.05101).

    Weight decay applies to matrices, not to vectors (norms, biases).
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, fused=True)
