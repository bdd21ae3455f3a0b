"""What memory a training run will take, told before it begins: a step, and the scoring, rehearsed without numbers."""

import copy
import weakref
from collections.abc import Iterator

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nanogpt.hardware import memory
from nanogpt.hardware.device import autocast
from nanogpt.model.build import build_model, count_parameters
from nanogpt.model.config import ModelConfig
from nanogpt.model.loss import IDS_AT_ONCE, KEPT_BYTES
from nanogpt.model.score import BATCH_TOKENS
from nanogpt.runtime.errors import BadSetting, UserError

MIB = 1 << 20
IMPORTS = 150 * MIB  # still to come when a run begins: AdamW's part of torch, oneDNN's kernels, in the end pandas
# Heap to a byte in use at the peak, measured. Freed buffers stay in this process (`keep_freed_memory`), but glibc
# before 2.38 reuses one for its own size only once it has merged with a neighbour. The logits of an adapted head,
# some large buffers of one size, are worst off: 1.3 to 2.4, by chance.
HEAP, HEAP_OF_LOGITS = 1.35, 2.0


def estimate_training_mib(model: nn.Module, batch_size: int, dtype: torch.dtype) -> float:
    """MiB that training `model` on a CPU takes at its peak beyond what this process holds, torch and the weights.

    It depends on the rows at once and not on grad_accum; with very few, scoring takes more than a step. `dtype` is that
    of matrix products.
    Measured peaks were within 15% of what comes out, or 40% with an adapter on the head.
    """
    moments = 2 * sum(p.nbytes for p in model.parameters() if p.requires_grad)  # AdamW's
    heap = HEAP if _is_plain_linear(model.lm_head) else HEAP_OF_LOGITS
    step = moments + heap * _in_use(model, batch_size, dtype)
    rows = max(1, BATCH_TOKENS // model.config.block_size)
    return (IMPORTS + max(step, heap * _in_use(model, rows, dtype, score=True))) / MIB


def check_weights_fit(config: ModelConfig, free_mib: float | None = None) -> None:
    """Raise UserError where not even the weights of a model of that shape fit, in fp32; before it is made."""
    free_mib = memory.available_mib() if free_mib is None else free_mib
    with torch.device("meta"):
        wanted = 4 * count_parameters(build_model(config)) / MIB
    if wanted > free_mib:
        raise _too_large_error("its weights alone take", wanted, free_mib)


def check_memory(
    model: nn.Module,
    batch_size: int,
    grad_accum: int,
    dtype: torch.dtype,
    section: str = "train",
    free_mib: float | None = None,
) -> None:
    """Raise UserError where training `model` takes more than `free_mib`, saying what would fit.

    That is the greatest divisor of `batch_size` that fits, and in section `train` the grad_accum that leaves the
    gradient as it is; other sections of params.yaml where batch_size may stand have none of their own. Without
    `free_mib` it is what this process can still take.
    """
    free_mib = memory.available_mib() if free_mib is None else free_mib
    if (wanted := estimate_training_mib(model, batch_size, dtype)) <= free_mib:
        return
    key = f"{section}.batch_size"
    reason = f"training takes about {_gib(wanted)} of memory, and {_gib(free_mib)} are free"
    for rows in (rows for rows in range(batch_size // 2, 0, -1) if batch_size % rows == 0):
        if (less := estimate_training_mib(model, rows, dtype)) <= free_mib:
            same = f" with train.grad_accum = {grad_accum * batch_size // rows}, which learns the same,"
            remedy = f"{key} = {rows}{same if section == 'train' else ''} takes {_gib(less)}"
            raise BadSetting(key, batch_size, reason, remedy)
        wanted = less
    raise _too_large_error(f"even {key} = 1 takes", wanted, free_mib)


def _too_large_error(what: str, wanted: float, free_mib: float) -> UserError:
    return UserError(
        f"the model is too large for the memory here: {what} about {_gib(wanted)}, and "
        f"{_gib(free_mib)} are free; choose a smaller model.n_embd, n_layer or block_size, or a smaller vocabulary"
    )


def _in_use(model: nn.Module, batch_size: int, dtype: torch.dtype, score: bool = False) -> int:
    """Bytes in use at the peak of a step, or of scoring as much, besides parameters and moments.

    So: activations, gradients, the weights' casts to `dtype` and what passes in between. torch runs the step on a copy
    of the model whose tensors have shapes and no numbers, so whatever the model does, with adapters and all, is in.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode  # late: it imports what the optimizer would anyway

    plain = _is_plain_linear(model.lm_head)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = copy.deepcopy(model).train(not score)
        with _Memory() as memory, torch.set_grad_enabled(not score):
            ids = torch.zeros(batch_size, model.config.block_size, dtype=torch.int64)  # (B, T)
            with autocast(torch.device("cpu"), dtype):
                out = model.hidden(ids) if plain else model(ids, ids, reduction="none" if score else "mean")
            if not score:
                out.sum().backward()
    if not plain:
        return memory.peak
    if score:  # the blocks are done when the head begins
        return max(memory.peak, memory.now + _scoring_head(model.lm_head, ids.numel(), dtype))
    return memory.peak + _fused_head(model.lm_head, ids.numel(), dtype)


def _is_plain_linear(head: nn.Module) -> bool:
    return type(head) is nn.Linear


def _fused_head(head: nn.Linear, N: int, dtype: torch.dtype) -> int:
    """Bytes for N tokens in `model.loss.Fused`, which reads numbers and cannot be rehearsed."""
    (V, D), size = head.weight.shape, dtype.itemsize
    casts = (N + V) * D * size if dtype != torch.float32 else 0
    exponentials, one_block = min(N * V * size, KEPT_BYTES), N * V * size <= KEPT_BYTES
    grad_hidden = 2 * N * D * 4  # in blocks, and then as one
    grad_weight = V * D * (size if one_block else 4 + 2 * size)  # of several blocks the sum, the last, and this one
    return exponentials + casts + grad_hidden + (grad_weight if head.weight.requires_grad else 0)


def _scoring_head(head: nn.Linear, N: int, dtype: torch.dtype) -> int:
    """The same where no gradients are needed: one block of the vocabulary at a time."""
    (V, D), size = head.weight.shape, dtype.itemsize
    casts = (N + V) * D * size if dtype != torch.float32 else 0
    return casts + N * min(V, IDS_AT_ONCE) * size + 2 * N * D * 4  # hidden and the targets' rows of the weight, in fp32


class _Memory(TorchDispatchMode):
    """Context that follows the memory of the tensors made in it: `peak` is the most bytes in use at once."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.known.update(_storages((args, kwargs)))  # of a view
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


def _gib(mib: float) -> str:
    return f"{mib / 1024:.2f} GiB"
