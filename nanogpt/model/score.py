"""Scores how well a model predicts text: loss, perplexity and bits per byte."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from torch import nn

from nanogpt.data.tokens.batches import Windows
from nanogpt.data.tokens.bins import Bin
from nanogpt.hardware import process_group
from nanogpt.model.loss import IGNORED, count_learned
from nanogpt.runtime.errors import UserError

BATCH_TOKENS = 2048  # scored at once: more are no faster on two cores and need more memory than training
Z95 = NormalDist().inv_cdf(0.975)  # standard deviations on either side of the mean that hold 95%


@dataclass(frozen=True, eq=False)
class Score:
    """Negative log likelihood of documents, each an entry of three (D,) arrays.

    `document_nats`: float64, in nats, summed over a document's tokens. `document_tokens`: int64, how many tokens were
    predicted. `document_bytes`: int64, bytes of the document's text in UTF-8.
    """

    document_nats: np.ndarray
    document_tokens: np.ndarray
    document_bytes: np.ndarray

    @property
    def nats(self) -> float:
        """Negative log likelihood of all documents, in nats."""
        return self.document_nats.sum().item()

    @property
    def tokens(self) -> int:
        """Predicted tokens, ends of documents counted."""
        return self.document_tokens.sum().item()

    @property
    def n_bytes(self) -> int:
        """Bytes of all documents in UTF-8."""
        return self.document_bytes.sum().item()

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
        return self.nats / math.log(2) / self.n_bytes

    @property
    def bpb_ci95(self) -> float | None:
        """Half the width of the 95% confidence interval of `bpb` over documents, None if there is only one."""
        return ratio_ci95(self.document_nats / math.log(2), self.document_bytes)

    def change(self, before: "Score") -> "Score":
        """The difference from another model's score of the same documents, as a score.

        Its `bpb` is the change in bits per byte, and its interval is that of the same documents in pairs, to which
        their difficulty for both models adds nothing. Tokens may differ. Raises ValueError if the documents do.
        """
        if not np.array_equal(self.document_bytes, before.document_bytes):
            raise ValueError("the two scores are not of the same documents")
        return Score(self.document_nats - before.document_nats, self.document_tokens, self.document_bytes)


def ratio_ci95(values: np.ndarray, sizes: np.ndarray) -> float | None:
    """Half the width of the 95% confidence interval of sum(values) / sum(sizes), None for one document; both (D,).

    Documents are the sample, and tokens of one document are not independent: bits per byte is a ratio of two sums over
    documents, whose standard error is that of the linearised ratio (Cochran, Sampling Techniques, 3rd ed. 1977, section
    2.11), with the normal distribution's quantile. It holds for many documents; with fewer than about 30 it is too
    narrow.
    """
    n = len(values)
    if n < 2:
        return None
    residuals = values - values.sum() / sizes.sum() * sizes
    return Z95 * math.sqrt(n / (n - 1) * (residuals**2).sum().item()) / sizes.sum().item()


def score_documents(
    model: nn.Module, documents: Iterable[np.ndarray], byte_lengths: np.ndarray, batch_tokens: int = BATCH_TOKENS,
    prompts: np.ndarray | None = None,
) -> Score:  # fmt: skip
    """Score every document whole, from its start to its end token (see `document_nats`).

    With `prompts` (see `Bin`) only their answers count. `byte_lengths` is the tokenizer's (vocab_size,) table.
    """
    documents = list(documents)
    prompts = np.zeros(len(documents), np.int64) if prompts is None else prompts
    nats = document_nats(model, documents, batch_tokens, prompts)
    answers = [document[1 + skipped :] for document, skipped in zip(documents, prompts, strict=True)]
    tokens = np.array([len(answer) for answer in answers], np.int64)
    n_bytes = np.array([byte_lengths[answer].sum() for answer in answers], np.int64)
    return Score(nats, tokens, n_bytes)


@torch.no_grad()
def document_nats(
    model: nn.Module, documents: Sequence[np.ndarray], batch_tokens: int = BATCH_TOKENS,
    prompts: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Negative log likelihood of all tokens of a document but the first, in nats, (D,) float64; in fp32.

    `documents` are arrays of token ids, a start token first; `prompts` (D,) tokens after it are not counted. A document
    longer than the model's block is read in overlapping windows, so that every token past the first block is predicted
    from at least half a block. The model gives losses as `LanguageModel` does, and is computed on its device.
    Figures agree only if threads and fp32 kernels are the same: see `configure_torch`. Several processes share the
    work. Raises UserError if a loss is not finite.
    """
    model.eval()
    device = next(model.parameters()).device
    prompts = np.zeros(len(documents), np.int64) if prompts is None else prompts
    nats = np.zeros(len(documents))
    batches = _batches_of_similar_length(documents, prompts, model.config.block_size, batch_tokens)
    for owners, ids, targets in itertools.islice(batches, process_group.rank(), None, process_group.size()):
        losses = model(ids.to(device), targets.to(device), reduction="none")  # (B, T)
        # np.add.at: a batch may hold several windows of one document. MPS has no float64
        np.add.at(nats, owners, losses.cpu().double().sum(1).numpy())
    nats = process_group.total(torch.from_numpy(nats)).numpy()
    if not np.isfinite(nats).all():
        raise UserError("the model's loss is not finite: its weights are damaged, or its training diverged")
    return nats


def _overlapping_windows(
    document: np.ndarray, skipped: int, block_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    ids, targets = document[:-1], document[1:].astype(np.int64)
    targets[:skipped] = IGNORED
    start = scored = 0
    while scored < len(ids):
        end = min(len(ids), start + block_size)
        window = targets[start:end].copy()
        window[: scored - start] = IGNORED
        yield ids[start:end], window
        scored, start = end, max(start + 1, end - block_size // 2)


def _batches_of_similar_length(
    documents: list[np.ndarray], prompts: np.ndarray, block_size: int, batch_tokens: int
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Batch windows of similar length, padded on the right.

    Yields the number of each row's document, (B,), its ids and its targets, each (B, T) int64.
    """
    windows = [
        (i, *window)
        for i, document in enumerate(documents)
        for window in _overlapping_windows(document, int(prompts[i]), block_size)
    ]
    windows.sort(key=lambda window: len(window[1]))
    while windows:
        rows = max(1, batch_tokens // len(windows[-1][1]))
        chosen, windows = windows[-rows:], windows[:-rows]
        shape = (len(chosen), len(chosen[-1][1]))
        ids, targets = np.zeros(shape, np.int64), np.full(shape, IGNORED)
        for row, (_, x, y) in enumerate(chosen):
            ids[row, : len(x)], targets[row, : len(y)] = x, y
        yield [owner for owner, _, _ in chosen], torch.from_numpy(ids), torch.from_numpy(targets)


@torch.no_grad()
def validate(model: nn.Module, windows: Windows, batches: int, batch_size: int) -> float:
    """Mean loss in nats per learned token over the first `batches` batches of `windows`: an estimate for curves.

    0 where none is learned. Several processes share the work.
    """
    model.eval()
    device = next(model.parameters()).device
    batches = max(1, min(batches, windows.per_epoch // batch_size))
    sums = torch.zeros(batches, 2, dtype=torch.float64)  # of losses, and how many
    for i in range(process_group.rank(), batches, process_group.size()):
        ids, targets = windows.batch(i, batch_size)
        sums[i, 1] = count_learned(targets)
        sums[i, 0] = model(ids.to(device), targets.to(device)).item() * sums[i, 1]
    nats, learned = process_group.total(sums).sum(0).tolist()
    return nats / max(1.0, learned)


def score_domains(model: nn.Module, domains: dict[str, Bin], byte_lengths: np.ndarray) -> dict[str, Score]:
    """Score all documents of each domain's bin."""
    return {
        domain: score_documents(model, data.documents(), byte_lengths, prompts=data.prompts)
        for domain, data in domains.items()
    }


def score_figures(scores: dict[str, Score], before: dict[str, Score] | None = None) -> dict[str, dict[str, float]]:
    """Bits per byte and perplexity of one model, by domain.

    `before` are the scores of the model before training: with them also the change in bits per byte, above 0 if the
    model forgot. `…_ci95` is half the width of a 95% confidence interval over documents, left out if there is only one.
    """
    found = {}
    for domain, score in scores.items():
        known = {"bpb": score.bpb, "bpb_ci95": score.bpb_ci95, "perplexity": score.perplexity}
        if before and domain in before:
            change = score.change(before[domain])
            known |= {"bpb_change": change.bpb, "bpb_change_ci95": change.bpb_ci95}
        found[domain] = {name: figure for name, figure in known.items() if figure is not None}
    return found
