"""The optimizers: AdamW for all parameters, or Muon for the matrices of the blocks and AdamW for the others."""

from collections.abc import Collection, Iterable

import torch
from torch import nn

from nanogpt.training.muon import Muon
from nanogpt.training.settings import TrainSettings


class MuonAndAdamW:
    """Two optimizers behind the methods of one: Muon is not for embeddings, heads and vectors, which AdamW has."""

    def __init__(self, muon: Muon, adamw: torch.optim.AdamW):
        self.muon, self.adamw = muon, adamw

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


Optimizer = torch.optim.AdamW | Muon | MuonAndAdamW


def build_optimizer(model: nn.Module, settings: TrainSettings, dtype: torch.dtype) -> Optimizer:
    """Build the optimizer that `settings` name, for the parameters that require gradients.

    `dtype` is that of the training run's matrix products. A parameter's learning rate is `lr_multiple` of its group
    times the schedule's.
    """
    matrices = _block_matrices(model) if settings.optimizer == "muon" else []
    known = {id(p) for p in matrices}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    common = settings.lr, (settings.beta1, settings.beta2), settings.weight_decay
    if not others:  # of an adapter on blocks alone
        return Muon(matrices, *common, dtype)
    adamw = build_adamw(others, *common, _embeddings_and_head(model), settings.embedding_lr)
    return MuonAndAdamW(Muon(matrices, *common, dtype), adamw) if matrices else adamw


def build_adamw(
    parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], weight_decay: float,
    embeddings: Collection[nn.Parameter] = (), embedding_lr: float = 1.0,
) -> torch.optim.AdamW:  # fmt: skip
    """Build a fused AdamW for those `parameters` that require gradients (Loshchilov & Hutter 2017, arXiv:1711.05101).

    Weight decay applies to matrices, not to vectors (norms, biases). `embeddings` have `embedding_lr` as `lr_multiple`.
    """
    trainable, known = [p for p in parameters if p.requires_grad], {id(p) for p in embeddings}
    others = [p for p in trainable if id(p) not in known]
    groups = [
        {"params": [p for p in trainable if id(p) in known], "weight_decay": weight_decay, "lr_multiple": embedding_lr},
        {"params": [p for p in others if p.dim() >= 2], "weight_decay": weight_decay, "lr_multiple": 1.0},
        {"params": [p for p in others if p.dim() < 2], "weight_decay": 0.0, "lr_multiple": 1.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, fused=True)


def _embeddings_and_head(model: nn.Module) -> list[nn.Parameter]:
    embeddings = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    rows = [p for name, p in model.named_parameters() if "trainable_tokens_delta" in name]  # of an adapter
    return [*embeddings, *rows, model.lm_head.weight]


def _block_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Weights of all linear layers, those of adapters too, but for the head's."""
    linear = [m for name, m in model.named_modules() if isinstance(m, nn.Linear) and "lm_head" not in name]
    return [layer.weight for layer in linear if layer.weight.requires_grad]
