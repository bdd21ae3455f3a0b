"""Computes the cross entropy of an output head without holding all of its logits at once."""

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nanogpt.model.head import as_product

Reduction = Literal["mean", "none"]

IGNORED = -100  # a target that is not learned: torch's `ignore_index`
FUSED = ("cpu", "cuda")  # devices on which `FusedLoss` computes the loss
IDS_AT_ONCE = 2048  # of the vocabulary: their logits for 2048 tokens, 8 MiB in bf16, stay in the CPU's cache
KEPT_BYTES = 1 << 28  # of exponentials held between two products: 2,668 tokens in bf16 at GPT-2's vocabulary
MAX_UNSHIFTED = 40.0  # nats: exponentials with a log-sum below this are in range without subtracting the maximum
# The logits of an adapted head are held for this many tokens, 26 MB in fp32 at 50k ids. glibc returns buffers above
# 32 MB to the system after each use, and the new pages of the next one cost more than the sums over them.
TOKENS_AT_ONCE = 128


def head_loss(head: nn.Module, hidden: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Compute the cross entropy of the head's logits in nats, in fp32 or wider.

    head: maps (..., D) to (..., V). hidden: (B, T, D); targets: (B, T) int64, where -100 is ignored.
    Returns a scalar, the mean over the targets that are not ignored (0 if all are), or with "none" (B, T), 0 where
    ignored. Products run in autocast's dtype, or in that of `hidden`.

    On a CPU and under CUDA a head that is a product of matrices, plain or with an adapter, is not called: see
    `as_product` and `FusedLoss`. Any other head is called as a module, and so is one if the gradient of each single
    loss is needed.
    """
    device = hidden.device.type
    rows, ids = hidden.flatten(0, 1), targets.flatten()  # (B*T, D), (B*T,)
    grad = torch.is_grad_enabled()
    product = as_product(head, rows) if device in FUSED and (reduction == "mean" or not grad) else None
    if product:
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else rows.dtype
        with torch.autocast(device, enabled=False):
            if grad:
                return FusedLoss.apply(product.features, product.weight, ids, dtype, product.frozen)
            h, w = product.features.to(dtype), product.weight.to(dtype)
            size = len(ids) if device == "cpu" else _tokens_at_once(w)  # a CPU holds a block of the vocabulary alone
            parts = zip(h.split(size), ids.split(size), strict=True)
            losses = torch.cat([Softmax(some, w, wanted).losses for some, wanted in parts])
    else:
        size = len(ids) if grad else TOKENS_AT_ONCE  # with gradients all logits are held anyway
        wide, parts = (
            torch.promote_types(rows.dtype, torch.float32),
            zip(rows.split(size), ids.split(size), strict=True),
        )
        losses = [F.cross_entropy(head(x).to(wide), y, ignore_index=IGNORED, reduction="none") for x, y in parts]
        losses = torch.cat(losses)
    return losses.view_as(targets) if reduction == "none" else losses.sum() / (ids != IGNORED).sum().clamp(min=1)


def _tokens_at_once(w: Tensor) -> int:
    """For how many tokens the logits of a weight (V, D) fit in KEPT_BYTES."""
    return max(1, KEPT_BYTES // (len(w) * w.itemsize))


def count_learned(targets: Tensor) -> int:
    """How many of the targets, int64, are learned."""
    return int((targets != IGNORED).sum())


class FusedLoss(torch.autograd.Function):
    """Mean cross entropy of a linear head, with its gradients computed in the forward pass.

    hidden (N, D), weight (V, D) whose first `frozen` columns need no gradient, targets (N,) int64, dtype of the
    products. Of the N x V logits only exponentials in that dtype are held, for as many tokens as fit in KEPT_BYTES.
    After Wijmans et al. 2024, https://arxiv.org/abs/2411.09009, and Hsu et al. 2024, https://arxiv.org/abs/2410.10989:
    because the loss is a scalar, its gradients are known up to a factor before the backward pass, and no logits are
    held until then.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx, hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype, frozen: int
    ) -> Tensor:
        ctx.dtypes, ctx.frozen = (hidden.dtype, weight.dtype), frozen
        for_hidden, for_weight = ctx.needs_input_grad[:2]
        h, w = hidden.to(dtype), weight.to(dtype)  # cast once, not for each product
        n = (targets != IGNORED).sum().clamp(min=1)
        size = _tokens_at_once(w)
        losses, slopes, grad_hidden, grad_weight = [], [], [], None
        for rows, ids in zip(h.split(size), targets.split(size), strict=True):
            softmax = Softmax(rows, w, ids, keep=True)
            losses.append(softmax.losses)
            slopes.append(softmax.slope / n)
            if for_hidden:
                grad_hidden.append(softmax.grad_hidden(n))
            if for_weight:
                part = softmax.grad_weight(n, frozen)
                grad_weight = part if grad_weight is None else grad_weight.to(softmax.wide).add_(part)
        slope = torch.cat(slopes)[:, None]  # (N, 1)
        h = h[:, frozen:]
        ctx.save_for_backward(torch.cat(grad_hidden) if for_hidden else None, grad_weight, h, slope, targets)
        return torch.cat(losses).sum() / n

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:  # noqa: D102
        grad_hidden, grad_weight, h, slope, targets = ctx.saved_tensors
        if grad_hidden is not None:
            grad_hidden = (grad_hidden * grad).to(ctx.dtypes[0])
        if grad_weight is not None:
            grad_weight = grad_weight.to(slope.dtype, copy=True)
            # the targets' part, exact even where the probability is nearly 1
            grad_weight.index_add_(0, targets.clamp(min=0), h * slope)
            if grad != 1:
                grad_weight *= grad
            grad_weight = grad_weight.to(ctx.dtypes[1])
            if ctx.frozen:  # F.pad copies, also where there is nothing to add
                grad_weight = F.pad(grad_weight, (ctx.frozen, 0))
        return grad_hidden, grad_weight, None, None, None


class Softmax:
    """Softmax of some tokens' logits in blocks of the vocabulary: their losses, and gradients from `grad_…`.

    The target's logit is computed separately, in fp32 or wider: if its probability is nearly 1, bf16 would round it
    to 1, and the loss and its slope would be 0 or noise. `losses` (N,) are in nats and `slope` (N,) is their
    derivative by the target's logit, p - 1; both are 0 where the target is ignored.
    """

    def __init__(self, h: Tensor, w: Tensor, targets: Tensor, keep: bool = False):
        self.h, self.w, self.ids = h, w, targets.clamp(min=0)
        self.wide, self.keep = torch.promote_types(h.dtype, torch.float32), keep
        counted = targets != IGNORED
        target_logits = (h.to(self.wide) * w[self.ids].to(self.wide)).sum(1)  # (N,)
        others = self._log_sum_of_others(shift=False)  # (N,)
        if not (others.abs() < MAX_UNSHIFTED).all():
            others = self._log_sum_of_others(shift=True)
        gap = others - target_logits
        self.losses = torch.where(counted, torch.logaddexp(gap, torch.zeros_like(gap)), 0.0)
        self.slope = torch.where(counted, -torch.sigmoid(gap), 0.0)
        self.log_total, self.counted = torch.logaddexp(others, target_logits), counted

    def _log_sum_of_others(self, shift: bool) -> Tensor:
        """log of the sum of all exponentials but the target's, (N,); `shift` subtracts each block's maximum first."""
        N, dtype = len(self.h), self.h.dtype
        at_once = IDS_AT_ONCE if self.h.device.type == "cpu" else len(self.w)  # a GPU is fast in large products alone
        size = N * (len(self.w) if self.keep else min(len(self.w), at_once))
        buffer = self.h.new_empty(size)  # the only large buffer; with `keep_freed_memory` each step reuses it
        self.blocks: list[tuple[slice, Tensor]] = []  # which ids, exponentials (N, ids)
        shifts, logs = [], []
        for first in range(0, len(self.w), at_once):
            ids = slice(first, min(first + at_once, len(self.w)))
            width = ids.stop - first
            start = N * first if self.keep else 0
            e = buffer[start : start + N * width].view(N, width)
            torch.mm(self.h, self.w[ids].T, out=e)
            inside = ((self.ids >= first) & (self.ids < ids.stop)).nonzero().squeeze(1)
            e[inside, self.ids[inside] - first] = torch.finfo(dtype).min
            shifts.append(e.amax(1).to(self.wide) if shift else e.new_zeros(N, dtype=self.wide))
            if shift:
                e.sub_(shifts[-1][:, None])
            logs.append(e.exp_().sum(1, dtype=self.wide).log() + shifts[-1])
            self.blocks.append((ids, e))
        self.shifts = shifts
        return torch.stack(logs).logsumexp(0)

    def _scaled_blocks(self, n: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield for each block its ids, exponentials and the factor (N, 1) that makes these slopes of the mean loss."""
        for (ids, e), shift in zip(self.blocks, self.shifts, strict=True):
            yield ids, e, torch.where(self.counted, (shift - self.log_total).exp() / n, 0.0)[:, None]

    def grad_hidden(self, n: Tensor) -> Tensor:
        """Gradient of the losses' sum over n by the hidden states, (N, D), fp32 or wider."""
        grad = self.w[self.ids].to(self.wide) * (self.slope / n)[:, None]
        for ids, e, scale in self._scaled_blocks(n):
            grad.addcmul_(torch.mm(e, self.w[ids]), scale)
        return grad

    def grad_weight(self, n: Tensor, frozen: int) -> Tensor:
        """The same by the weight's columns from `frozen` on, in the products' dtype, without the targets' part."""
        h = self.h[:, frozen:]
        grad = h.new_empty(len(self.w), h.shape[1])
        for ids, e, scale in self._scaled_blocks(n):
            torch.mm(e.T, (h * scale).to(e.dtype), out=grad[ids])
        return grad
