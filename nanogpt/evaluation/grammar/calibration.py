"""How far a model's next-token distribution is from a grammar's exact one."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from nanogpt.evaluation.grammar.exact_predictions import KINDS, ExactText
from nanogpt.model.score import BATCH_TOKENS, ratio_ci95


@torch.no_grad()
def place_divergences(model: nn.Module, texts: Sequence[ExactText]) -> list[np.ndarray]:
    """The KL divergence of the model from the grammar at every place of each text, (T,) float64 in bits.

    It is the sum over what can come of p log2(p / q), p the grammar's probability and q the model's. Only the first
    block of a longer text is read. The model gives logits as `LanguageModel` does, and is computed on its device.
    """
    model.eval()
    device = next(model.parameters()).device
    block_size = model.config.block_size
    found: list[np.ndarray] = [np.empty(0)] * len(texts)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i].ids))
    rows = max(1, BATCH_TOKENS // min(block_size, len(texts[order[-1]].ids)))
    for start in range(0, len(order), rows):
        chosen = order[start : start + rows]
        inputs = [torch.from_numpy(texts[i].ids[:-1][:block_size]) for i in chosen]
        ids = nn.utils.rnn.pad_sequence(inputs, batch_first=True)  # (B, T)
        log_q = model(ids.to(device)).float().log_softmax(-1).cpu()  # (B, T, V)
        for i, row, read in zip(chosen, log_q, inputs, strict=True):
            text = texts[i]
            known = text.places < len(read)
            places, p = text.places[known], text.p[known]
            q = row[places, text.candidates[known]].double().numpy()
            found[i] = np.bincount(places, p * (np.log2(p) - q / math.log(2)), len(read))
    return found


def calibration_figures(texts: Sequence[ExactText], divergences: Sequence[np.ndarray]) -> dict:
    """Mean divergence of a place in bits, half of its 95% interval over texts, and the mean by kind (see KINDS)."""
    sums = np.array([each.sum() for each in divergences])
    counts = np.array([len(each) for each in divergences])
    kinds = np.concatenate([text.kinds[: len(each)] for text, each in zip(texts, divergences, strict=True)])
    places = np.concatenate(divergences)
    by_kind = {kind: places[kinds == i].mean().item() for i, kind in enumerate(KINDS) if (kinds == i).any()}
    mean = (sums.sum() / counts.sum()).item()
    return {"kl_bits": mean, "kl_bits_ci95": ratio_ci95(sums, counts), "kl_bits_at": by_kind}
