"""Chooses the next tokens from logits, without sorting them.

numpy's calls take a quarter of the time of torch's, which counts in arrays of a few hundred numbers.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from nanogpt.inference.settings import Sampling
from nanogpt.runtime.errors import UserError

BLOCK = 64  # logits are summed and searched in blocks of this many
FIRST_CANDIDATES = 64  # that a filter looks at


@dataclass
class Chooser:
    """How the tokens of one text are chosen: its settings, its own randomness, and the tokens that it holds.

    `top_logprobs`: how many of the likeliest tokens are reported beside each chosen one; None reports nothing.
    """

    sampling: Sampling
    rng: random.Random
    seen: list[int] = field(default_factory=list)
    top_logprobs: int | None = None


@dataclass(frozen=True)
class Token:
    """A chosen token; with its natural log-probability under the model, and the likeliest ones, where asked for."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def choose(logits: Tensor, choosers: Sequence[Chooser]) -> list[Token]:
    """Choose one token for each row of fp32 logits (N, V), V a multiple of BLOCK, which are overwritten.

    A row's logits are changed by the repetition penalty (Keskar et al. 2019, https://arxiv.org/abs/1909.05858: those of
    tokens in the text are divided by it if positive, else multiplied), then divided by the temperature, then filtered:
    top_k keeps the k largest (Fan et al. 2018, https://arxiv.org/abs/1805.04833), top_p of those the fewest that
    together hold at least that probability (Holtzman et al. 2020, https://arxiv.org/abs/1904.09751), and min_p those
    with at least that share of the largest one's probability (Nguyen et al. 2024, https://arxiv.org/abs/2407.01082).
    -inf is never chosen, and of equal logits the greedy choice is the first. A row's choice depends on its own logits
    and chooser alone. Raises UserError if logits are not finite.
    """
    reported = [i for i, chooser in enumerate(choosers) if chooser.top_logprobs is not None]
    logprobs = dict(zip(reported, logits[reported].log_softmax(dim=1), strict=True)) if reported else {}
    _prepare(logits, choosers)
    kinds = [_kind(chooser.sampling) for chooser in choosers]
    greedy, filtered, rest = (
        [i for i, one in enumerate(kinds) if one == kind] for kind in ("greedy", "filtered", "all")
    )
    blocks = logits.unflatten(1, (-1, BLOCK)).amax(dim=2)  # (N, V / BLOCK)
    best = blocks.amax(dim=1)
    if not best.isfinite().all():
        raise UserError("the model's output is not finite: its weights are damaged, or its training diverged")
    ids: dict[int, int] = {}  # by row
    if greedy:
        ids |= zip(greedy, _largest(logits, blocks, greedy), strict=True)
    if filtered:
        ids |= zip(filtered, _draw_filtered(logits, blocks, best, choosers, filtered), strict=True)
    if rest:  # last: it overwrites the logits
        ids |= zip(rest, _draw(logits, best, choosers, rest), strict=True)
    return [_token(ids[i], logprobs.get(i), chooser.top_logprobs) for i, chooser in enumerate(choosers)]


def _prepare(logits: Tensor, choosers: Sequence[Chooser]) -> None:
    """Apply repetition penalties and temperatures in place."""
    for i, chooser in enumerate(choosers):
        if (penalty := chooser.sampling.repetition_penalty) != 1:
            row, seen = logits[i], torch.tensor(sorted(set(chooser.seen)), device=logits.device)
            row[seen] = torch.where(row[seen] > 0, row[seen] / penalty, row[seen] * penalty)
    temperatures = [1.0 if chooser.sampling.greedy else chooser.sampling.temperature for chooser in choosers]
    if any(temperature != 1 for temperature in temperatures):
        logits /= torch.tensor(temperatures, device=logits.device)[:, None]


def _kind(sampling: Sampling) -> Literal["greedy", "filtered", "all"]:
    if sampling.greedy:
        return "greedy"
    keeps_all = sampling.top_k is None and sampling.top_p in (None, 1) and sampling.min_p is None
    return "all" if keeps_all else "filtered"


def _largest(logits: Tensor, blocks: Tensor, rows: list[int]) -> list[int]:
    """The first of the largest logits of each row: of 50k, torch's argmax takes ten times as long."""
    block = blocks[rows].argmax(dim=1)
    inside = logits.unflatten(1, (-1, BLOCK))[rows, block]  # (n, BLOCK)
    return (block * BLOCK + inside.argmax(dim=1)).tolist()


def _draw(logits: Tensor, best: Tensor, choosers: Sequence[Chooser], rows: list[int]) -> list[int]:
    """Draw an id for each of `rows` from all, and overwrite the logits."""
    if len(rows) < len(logits):
        logits, best = logits[rows], best[rows]
    weights = logits.sub_(best[:, None]).exp_().unflatten(1, (-1, BLOCK))  # (n, V / BLOCK, BLOCK), of the largest 1
    block, rest = _invert(weights.sum(dim=2).cpu().numpy(), _draws(choosers, rows))
    inside = weights[range(len(rows)), block.tolist()].cpu().numpy()  # (n, BLOCK)
    return (block * BLOCK + _invert(inside, rest)[0]).tolist()


def _draw_filtered(
    logits: Tensor, blocks: Tensor, best: Tensor, choosers: Sequence[Chooser], rows: list[int],
    candidates: int = FIRST_CANDIDATES,
) -> list[int]:  # fmt: skip
    """Draw an id for each of `rows` from what its filters keep, looking at the largest `candidates` first."""
    settings, V = [choosers[i].sampling for i in rows], logits.size(1)
    K = min(max([candidates, *(s.top_k or 0 for s in settings)]), V)
    # The K largest lie in the K blocks with the largest maxima.
    near = _top(blocks[rows].cpu().numpy(), min(K, blocks.size(1)))
    in_rows, in_blocks = (torch.from_numpy(index).to(logits.device) for index in (np.array(rows)[:, None], near))
    logits_near = logits.unflatten(1, (-1, BLOCK))[in_rows, in_blocks].flatten(1).cpu().numpy()
    places = np.sort(_top(logits_near, K), axis=1)  # in order, so that equal logits are too
    order = np.take_along_axis(-logits_near, places, axis=1).argsort(axis=1, kind="stable")
    places = np.take_along_axis(places, order, axis=1)
    ranked = np.take_along_axis(logits_near, places, axis=1)  # (n, K), descending
    weights = np.exp((ranked - best[rows, None].cpu().numpy()).astype(np.float64))
    limits = np.array([min(s.top_k or V, V) for s in settings])
    weights *= np.arange(K) < limits[:, None]
    totals = weights.sum(axis=1)
    if any(s.top_k is None and s.top_p for s in settings):
        sums = (logits[rows] - best[rows, None]).exp_().sum(dim=1).double().cpu().numpy()
        totals = np.where(limits < V, totals, sums)
    shares, least = np.array([[s.top_p or 2.0, s.min_p or 0.0] for s in settings]).T[:, :, None]
    ahead = weights.cumsum(axis=1) - weights
    kept = (ahead < shares * totals[:, None]) & (weights >= least)
    if K < V and (kept[:, -1] & (limits > K)).any():  # more of them may be kept
        return _draw_filtered(logits, blocks, best, choosers, rows, 8 * candidates)
    chosen, _ = _invert(weights * kept, _draws(choosers, rows))
    place = np.take_along_axis(places, chosen[:, None], axis=1)
    return (np.take_along_axis(near, place // BLOCK, axis=1) * BLOCK + place % BLOCK)[:, 0].tolist()


def _top(x: np.ndarray, K: int) -> np.ndarray:
    """Places of the K largest in each row of x (n, m), in any order."""
    return np.argpartition(x, x.shape[1] - K, axis=1)[:, x.shape[1] - K :]


def _draws(choosers: Sequence[Chooser], rows: list[int]) -> np.ndarray:
    """One number in [0, 1) of each row's randomness, (n,)."""
    return np.array([choosers[i].rng.random() for i in rows])


def _invert(weights: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The place (n,) where the cumulative sum of weights (n, K) exceeds `draws` (n,), in [0, 1), of the total.

    Also returns how far into that place's weight the draw lies, again in [0, 1): a draw for what is inside. One draw a
    row, where torch.multinomial makes one for every id. Weights of 0 are stepped over.
    """
    sums = weights.cumsum(axis=1, dtype=np.float64)
    at = draws * sums[:, -1] * (1 - 2**-52)  # below the total also when rounded
    place = (sums > at[:, None]).argmax(axis=1)
    rows = np.arange(len(sums))
    ahead = np.where(place > 0, sums[rows, place - 1], 0.0)
    inside = (at - ahead) / (sums[rows, place] - ahead)
    return place, inside.clip(0, 1 - 2**-52)


def _token(id: int, logprobs: Tensor | None, top: int | None) -> Token:
    if logprobs is None:
        return Token(id)
    values, ids = logprobs.topk(top)
    return Token(id, logprobs[id].item(), tuple(zip(ids.tolist(), values.tolist(), strict=True)))
