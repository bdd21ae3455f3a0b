"""What both architectures share: the output head, initial weights and the forward pass."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from nanogpt.model.config import HuggingFaceNames, ModelConfig
from nanogpt.model.loss import Reduction, head_loss

RESIDUAL = ("c_proj.weight", "o_proj.weight", "down_proj.weight")  # projections whose outputs the blocks add up


class LanguageModel(nn.Module, ABC):
    """Base class of both architectures; a subclass sets `hf`, builds its body, then calls `add_head`."""

    hf: HuggingFaceNames
    document_start: int | None = None  # the end token's id, to keep the documents of a row apart

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config

    def add_head(self) -> None:
        """Add the output head, tied to the embedding if the config says so, and draw the initial weights."""
        self.lm_head = nn.Linear(self.config.n_embd, self.config.vocab_size, bias=False)
        if self.config.tie_embeddings:
            self.lm_head.weight = self.get_parameter(self.hf.embedding + ".weight")
        if not self.lm_head.weight.is_meta:  # on the meta device, `build_with_weights` assigns the weights of a file
            self.initialise()

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of tokens, as PEFT asks for it."""
        return self.get_submodule(self.hf.embedding)

    @property
    def _tied_weights_keys(self) -> list[str]:  # read by PEFT
        return ["lm_head.weight"] if self.config.tie_embeddings else []

    @torch.no_grad()
    def initialise(self) -> None:
        """Draw normal weights, smaller ones where 2 * n_layer outputs add up in the residual stream; zero biases."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                shrink = math.sqrt(2 * self.config.n_layer) if name.endswith(RESIDUAL) else 1
                parameter.normal_(std=self.config.initial_std / shrink)
            elif name.endswith("bias"):
                parameter.zero_()

    def forward(
        self,
        ids: Tensor,
        targets: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> Tensor:
        """Compute logits, or with targets their cross entropy in nats.

        ids: (B, T) int64; T is at most block_size. targets: (B, T) int64, -100 ignored.
        Returns logits (B, T, V), or the loss: a scalar, or (B, T) with reduction "none" (see `head_loss`).
        """
        x = self.hidden(ids)
        return self.lm_head(x) if targets is None else head_loss(self.lm_head, x, targets, reduction)

    def starts(self, ids: Tensor) -> Tensor | None:
        """Where the documents of the tokens (B, T) start in their rows, (B, T) int64; None to see all of a row."""
        if self.document_start is None:
            return None
        places = torch.arange(ids.size(1), device=ids.device)
        return torch.where(ids == self.document_start, places, 0).cummax(dim=1).values

    @abstractmethod
    def hidden(self, ids: Tensor) -> Tensor:
        """Hidden states before the output head, (B, T, C)."""
