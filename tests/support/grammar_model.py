"""A grammar behind a model's interface: the perfect model of its texts."""

from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from nanogpt.data.sources.grammar import Grammar
from nanogpt.data.tokens.tokenizer import Tokenizer
from nanogpt.evaluation.grammar.exact_predictions import NextTokens
from nanogpt.model.loss import IGNORED

IMPOSSIBLE = -80.0  # log-probability of a token that cannot come, so that no loss is infinite


class GrammarModel(nn.Module):
    """Its logits are the logarithms of the exact probabilities of the next token."""

    def __init__(self, grammar: Grammar, tok: Tokenizer, block_size: int = 2048):
        super().__init__()
        self.grammar, self.tok = grammar, tok
        self.config = SimpleNamespace(block_size=block_size)
        self.dummy = nn.Parameter(torch.zeros(1))  # has a device

    def forward(self, ids, targets=None, reduction="mean"):
        logits = torch.stack([self._row(row.tolist()) for row in ids])
        if targets is None:
            return logits
        flat = logits.flatten(0, 1).double(), targets.flatten()
        return F.cross_entropy(*flat, ignore_index=IGNORED, reduction=reduction).view_as(targets)

    def _row(self, ids: list[int]) -> torch.Tensor:
        """(T, V) for tokens of which the first is the end token; what follows one that cannot come does not matter."""
        rows, following = np.full((len(ids), self.tok.vocab_size), IMPOSSIBLE), NextTokens(self.grammar, self.tok)
        for place in range(len(ids)):
            if place:
                try:
                    following.add(ids[place])
                except KeyError:
                    break
            distribution = following.distribution()
            rows[place, list(distribution)] = np.log(list(distribution.values()))
        return torch.from_numpy(rows)
