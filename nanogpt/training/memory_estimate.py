"""Memory of a training run on a CPU, before it starts: what it needs at least, and an estimate of its peak."""

import copy
import sys
import weakref
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nanogpt.hardware import memory
from nanogpt.hardware.device import autocast
from nanogpt.model.build import build_model, count_parameters
from nanogpt.model.config import ModelConfig
from nanogpt.model.loss import KEPT_BYTES
from nanogpt.runtime.errors import BadSetting, UserError

MIB = 1 << 20
IMPORTS = 90 * MIB  # modules that are loaded later: AdamW's part of torch, oneDNN's kernels
HEAP = 1.35  # measured: bytes of the heap for each byte in use at the peak, see `keep_freed_memory`
WARN_ABOVE = 0.85  # of the free memory: measured peaks were within 15% of the estimate, or 40% with an adapted head


def check_minimum(
    config: ModelConfig,
    batch_size: int = 1,
    section: str = "train",
    frozen: bool = False,
    free_mib: float | None = None,
) -> None:
    """Raise UserError if training certainly needs more than `free_mib`, by default what this process can still take.

    Counted are weights, gradients and AdamW's moments, and each block's input, all in fp32; with `frozen` weights, as
    under an adapter, only the weights and one input. `section` of params.yaml has the `batch_size`.
    """
    free = (memory.available_mib() if free_mib is None else free_mib) * MIB
    per_sequence = 4 * config.block_size * config.n_embd * (1 if frozen else config.n_layer)
    fixed = _count_weights(config) * (4 if frozen else 16)
    if (needed := fixed + per_sequence) > free:
        raise UserError(
            f"the model of section {section} is too large for the memory here: it needs at least {_gib(needed)}, and "
            f"{_gib(free)} are free; choose a smaller n_embd, n_layer or block_size, or a smaller vocabulary"
        )
    if (needed := fixed + batch_size * per_sequence) > free:
        reason = f"training needs at least {_gib(needed)} of memory, and {_gib(free)} are free"
        remedy = f"choose less than {int((free - fixed) / per_sequence) + 1}; train.grad_accum makes up for it"
        raise BadSetting(f"{section}.batch_size", batch_size, reason, remedy)


def warn_of_memory(model: nn.Module, batch_size: int, dtype: torch.dtype, section: str, free_mib: float) -> None:
    """Warn on stderr if the estimated peak of training `model` is close to `free_mib` or above it."""
    if (wanted := estimate_training_mib(model, batch_size, dtype)) > WARN_ABOVE * free_mib:
        print(
            f"warning: training takes about {_gib(wanted * MIB)} of memory, and {_gib(free_mib * MIB)} are free; if it "
            f"is killed, lower {section}.batch_size = {batch_size}",
            file=sys.stderr,
        )


def estimate_training_mib(model: nn.Module, batch_size: int, dtype: torch.dtype) -> float:
    """Estimate the MiB that training `model` on a CPU takes at its peak, besides what this process has already.

    `dtype` is that of matrix products. torch runs a step on a copy of the model whose tensors have shapes and no
    numbers, so that adapters and dropout are included. Scoring is not, which takes more than a step of few tokens.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode  # here: it imports what the optimizer imports later

    moments = 2 * sum(p.nbytes for p in model.parameters() if p.requires_grad)
    plain_head = type(model.lm_head) is nn.Linear
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = copy.deepcopy(model).train()
        with PeakBytes() as used:
            ids = torch.zeros(batch_size, model.config.block_size, dtype=torch.int64)  # (B, T)
            with autocast(torch.device("cpu"), dtype):
                out = model.hidden(ids) if plain_head else model(ids, ids)
            out.sum().backward()
    head = _fused_head_bytes(model.lm_head, ids.numel(), dtype) if plain_head else 0
    return (IMPORTS + moments + HEAP * (used.peak + head)) / MIB


def _count_weights(config: ModelConfig) -> int:
    """Number of parameters of a shape, without memory for them and without building each layer."""
    try:
        with torch.device("meta"):
            one, two = (count_parameters(build_model(replace(config, n_layer=n))) for n in (1, 2))
    except (RuntimeError, TypeError, OverflowError):  # a tensor of more than 2^63 bytes
        return 2**63
    return one + (config.n_layer - 1) * (two - one)


def _fused_head_bytes(head: nn.Linear, N: int, dtype: torch.dtype) -> int:
    """Bytes of `model.loss`'s fused head for N tokens, which reads numbers and cannot run without them."""
    (V, D), size = head.weight.shape, dtype.itemsize
    casts = (N + V) * D * size if dtype != torch.float32 else 0
    exponentials, one_block = min(N * V * size, KEPT_BYTES), N * V * size <= KEPT_BYTES
    grad_hidden = 2 * N * D * 4  # in blocks, and then as one
    grad_weight = V * D * (size if one_block else 4 + 2 * size)  # of several blocks: the sum, the last, and this one
    return exponentials + casts + grad_hidden + (grad_weight if head.weight.requires_grad else 0)


class PeakBytes(TorchDispatchMode):
    """Context that counts the memory of tensors created in it: `peak` is the most bytes in use at once."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.known.update(_storages((args, kwargs)))  # a view has the storage of its argument
        out = func(*args, **(kwargs or {}))
        for storage in _storages(out):
            if storage not in self.known:
                self.known.add(storage)
                self._count(storage.nbytes())
                weakref.finalize(storage, self._count, -storage.nbytes())
        return out

    def _count(self, nbytes: int) -> None:
        self.now += nbytes
        self.peak = max(self.peak, self.now)


def _storages(tree: object) -> Iterator[torch.UntypedStorage]:
    return (leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))


def _gib(nbytes: float) -> str:
    return f"{nbytes / 1024**3:,.2f} GiB"
