"""The optimizers: AdamW for all parameters, or Muon for the matrices of the blocks and AdamW for the others."""

from collections.abc import Iterable

import torch
from torch import nn

from nanogpt.training.settings import TrainSettings

# Newton-Schulz iterations of Muon. Five are usual; three train as well here, and cost a step of 2,048 tokens on a CPU
# an eighth of its time in place of a fifth.
NS_STEPS = 3
MUON_MOMENTUM = 0.95


class MuonAndAdamW:
    """Two optimizers behind the methods of one: Muon for `matrices` of `model`, AdamW for its other parameters.

    Muon moves a matrix along its momentum with all singular values made about equal (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon). Its steps are scaled to the size of AdamW's, so that both have the same
    learning rate and weight decay (Liu et al. 2025, arXiv:2502.16982). It is not for embeddings, heads and vectors.
    """

    def __init__(
        self, model: nn.Module, matrices: list[nn.Parameter], lr: float, betas: tuple[float, float], weight_decay: float
    ):
        self.muon = torch.optim.Muon(
            matrices, lr, weight_decay, MUON_MOMENTUM, ns_steps=NS_STEPS, adjust_lr_fn="match_rms_adamw"
        )
        known = {id(p) for p in matrices}
        self.adamw = build_adamw([p for p in model.parameters() if id(p) not in known], lr, betas, weight_decay)

    @property
    def param_groups(self) -> list[dict]:
        """Those of both."""
        return self.muon.param_groups + self.adamw.param_groups

    def step(self) -> None:
        """Update all parameters by their gradients."""
        self.muon.step()
        self.adamw.step()

    def zero_grad(self, set_to_none: bool) -> None:
        """Remove the gradients, or make them zeros."""
        self.muon.zero_grad(set_to_none)
        self.adamw.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, dict]:
        """The states of both, for `load_state_dict`."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: dict[str, dict]) -> None:
        """Set the states of both."""
        self.muon.load_state_dict(state["muon"])
        self.adamw.load_state_dict(state["adamw"])


Optimizer = torch.optim.AdamW | MuonAndAdamW


def build_optimizer(model: nn.Module, settings: TrainSettings) -> Optimizer:
    """Build the optimizer that `settings` name, for the parameters that require gradients."""
    arguments = settings.lr, (settings.beta1, settings.beta2), settings.weight_decay
    if settings.optimizer == "muon" and (matrices := _block_matrices(model)):
        return MuonAndAdamW(model, matrices, *arguments)
    return build_adamw(model.parameters(), *arguments)


def build_adamw(
    parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """Build a fused AdamW for those `parameters` that require gradients (Loshchilov & Hutter 2017, arXiv:1711.05101).

    Weight decay applies to matrices, not to vectors (norms, biases).
    """
    trainable = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, fused=True)


def _block_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Weights of all linear layers, those of adapters too, but for the head's."""
    linear = [m for name, m in model.named_modules() if isinstance(m, nn.Linear) and "lm_head" not in name]
    return [layer.weight for layer in linear if layer.weight.requires_grad]
