"""What this machine is and which number format its matrix products are fastest in."""

import os
from typing import Literal

import torch

from nanogpt.hardware.cores import describe, instruction_set, name, threads, usable
from nanogpt.hardware.memory import available_mib, keep_freed, peak_mib
from nanogpt.hardware.rates import Rates, fast_float32, matmul_flops, rates
from nanogpt.runtime.errors import BadSetting

__all__ = [
    "Dtype",
    "Rates",
    "autocast",
    "available_mib",
    "describe",
    "deterministic",
    "device",
    "dtype",
    "fast_float32",
    "instruction_set",
    "keep_freed",
    "matmul_flops",
    "name",
    "peak_mib",
    "precision",
    "rates",
    "threads",
    "tune",
    "usable",
]

Dtype = Literal["auto", "float32", "bfloat16"]


def device(name: str = "auto") -> torch.device:
    """The device to compute on; "auto" prefers CUDA, then Apple's MPS, then the CPU.

    Raises BadSetting for one that this machine lacks.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, usable in there.items() if usable)
    elif not there[name]:
        raise BadSetting("train.device", name, "torch finds none on this machine", "choose auto or cpu")
    return torch.device(name)


def tune(wanted: int | Literal["auto"], onednn: bool | None = None) -> None:
    """Make this process train fast and to the same bits: its threads, fp32 products, memory, numbers next to 0, order.

    `onednn` says whose fp32 products; by default those that are faster.
    """
    threads(wanted)
    fast_float32(onednn)
    keep_freed()
    torch.set_flush_denormal(True)
    deterministic()


def deterministic() -> None:
    """Let torch sum in the same order each time.

    Without this, compiled gradients of the embedding differ from run to run: threads add to the same rows as they come.
    On a GPU a kernel that knows no such order only warns. torch would also fill every new buffer with NaN, which costs
    a pass over it and finds mistakes that are none of a user's.
    Source: https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False


def dtype(wanted: Dtype, device: torch.device) -> torch.dtype:
    """The dtype of matrix products.

    "auto" takes bfloat16 where it is faster. The CPU's flags alone do not tell (some CPUs list
    bf16 and run it slower than fp32), so there `rates` decides.
    """
    if wanted != "auto":
        return getattr(torch, wanted)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "mps":
        return torch.float32
    return torch.bfloat16 if rates().bfloat16_pays else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Context in which matrix products run in `dtype`; with float32 it changes nothing."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def precision(wanted: Dtype, device: torch.device) -> torch.autocast:
    """Context in which matrix products run in the wanted dtype, resolved by `dtype`."""
    return autocast(device, dtype(wanted, device))
