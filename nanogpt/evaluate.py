"""How well a model predicts text: loss, perplexity and bits per byte."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from nanogpt import hardware
from nanogpt.model.loss import IGNORED
from nanogpt.tokens import Bin, Windows


@dataclass(frozen=True)
class Score:
    """Summed surprise of some text: `nats` over `tokens` predicted tokens that spell `n_bytes` of UTF-8."""

    nats: float
    tokens: int
    n_bytes: int

    @property
    def loss_nats(self) -> float:
        """Mean loss in nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp of the mean loss: comparable only between models with the same tokenizer."""
        return math.exp(min(self.loss_nats, 700.0))

    @property
    def bpb(self) -> float:
        """Bits per byte of text, ends of documents counted: comparable across tokenizers."""
        return bits_per_byte(self.nats / math.log(2), self.n_bytes)


def bits_per_byte(bits: float, n_bytes: int) -> float:
    """Bits per byte; the one definition that achieved figures and known floors share."""
    return bits / n_bytes


@torch.no_grad()
def score(
    model: nn.Module, documents: Iterable[np.ndarray], byte_lengths: np.ndarray, batch_tokens: int = 8192
) -> Score:
    """Score every document whole, from its start to its end token.

    `documents` are arrays of token ids, end token first and last. A document longer than the
    model's block is read in overlapping windows, so that every token past the first block is
    predicted from at least half a block. `byte_lengths` is the tokenizer's (vocab_size,) table.
    """
    model.eval()
    device = next(model.parameters()).device
    nats, tokens, n_bytes = 0.0, 0, 0
    for ids, targets in _batches(documents, model.config.block_size, batch_tokens):
        losses = model(ids.to(device), targets.to(device), reduction="none")
        nats += losses.cpu().double().sum().item()  # MPS has no float64
        scored = targets[targets != IGNORED]
        tokens += len(scored)
        n_bytes += int(byte_lengths[scored.numpy()].sum())
    return Score(nats, tokens, n_bytes)


def _windows(document: np.ndarray, block_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    ids, targets = document[:-1], document[1:].astype(np.int64)
    start = scored = 0
    while scored < len(ids):
        end = min(len(ids), start + block_size)
        window = targets[start:end].copy()
        window[: scored - start] = IGNORED
        yield ids[start:end], window
        scored, start = end, max(start + 1, end - block_size // 2)


def _batches(
    documents: Iterable[np.ndarray], block_size: int, batch_tokens: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Windows of similar length together, padded on the right: (ids, targets), each (B, T) int64."""
    windows = sorted((w for d in documents for w in _windows(d, block_size)), key=lambda w: len(w[0]))
    while windows:
        rows = max(1, batch_tokens // len(windows[-1][0]))
        chosen, windows = windows[-rows:], windows[:-rows]
        shape = (len(chosen), len(chosen[-1][0]))
        ids, targets = np.zeros(shape, np.int64), np.full(shape, IGNORED)
        for row, (x, y) in enumerate(chosen):
            ids[row, : len(x)], targets[row, : len(y)] = x, y
        yield torch.from_numpy(ids), torch.from_numpy(targets)


@torch.no_grad()
def window_loss(model: nn.Module, windows: Windows, batches: int, batch_size: int) -> float:
    """Mean loss in nats per token over the first `batches` batches of `windows`: cheap, for curves."""
    model.eval()
    device = next(model.parameters()).device
    batches = max(1, min(batches, windows.per_epoch // batch_size))
    losses = []
    for i in range(batches):
        ids, targets = windows.batch(i, batch_size)
        losses.append(model(ids.to(device), targets.to(device)).item())
    return sum(losses) / len(losses)


def score_bin(model: nn.Module, data: Bin, byte_lengths: np.ndarray, dtype: hardware.Dtype) -> Score:
    """Score every document of a bin, matrix products in `dtype`."""
    with hardware.precision(dtype, next(model.parameters()).device):
        return score(model, data.documents(), byte_lengths)
