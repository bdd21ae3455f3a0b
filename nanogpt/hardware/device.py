"""The device and dtype to compute on, and how torch is set up for it."""

import os
from typing import Literal

import torch

from nanogpt.hardware.cores import usable_cores
from nanogpt.hardware.matmul_rates import measured_rates, use_fast_float32
from nanogpt.hardware.memory import keep_freed_memory
from nanogpt.runtime.errors import BadSetting

Dtype = Literal["auto", "float32", "bfloat16"]


def choose_device(name: str = "auto") -> torch.device:
    """The device to compute on; "auto" prefers CUDA, then Apple's MPS, then the CPU.

    Raises BadSetting for one that this machine lacks.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, usable in there.items() if usable)
    elif not there[name]:
        raise BadSetting("train.device", name, "torch finds none on this machine", "choose auto or cpu")
    return torch.device(name)


def set_threads(wanted: int | Literal["auto"]) -> int:
    """Set torch's threads: as wanted, or one for every core this process may use."""
    count = usable_cores() if wanted == "auto" else wanted
    torch.set_num_threads(count)
    return count


def configure_torch(wanted: int | Literal["auto"], onednn: bool | None = None) -> None:
    """Make this process train fast and to the same bits: its threads, fp32 products, memory, numbers next to 0, order.

    `onednn` says whose fp32 products; by default those that are faster.
    """
    set_threads(wanted)
    use_fast_float32(onednn)
    keep_freed_memory()
    torch.set_flush_denormal(True)
    use_deterministic_algorithms()


def use_deterministic_algorithms() -> None:
    """Let torch sum in the same order each time.

    Without this, compiled gradients of the embedding differ from run to run: threads add to the same rows as they come.
    On a GPU a kernel that knows no such order only warns. torch would also fill every new buffer with NaN, which costs
    a pass over it and finds mistakes that are none of a user's.
    Source: https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False


def choose_dtype(wanted: Dtype, device: torch.device) -> torch.dtype:
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
    return torch.bfloat16 if measured_rates().bfloat16_pays else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Context in which matrix products run in `dtype`; with float32 it changes nothing."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def autocast_to(wanted: Dtype, device: torch.device) -> torch.autocast:
    """Context in which matrix products run in the wanted dtype, resolved by `dtype`."""
    return autocast(device, choose_dtype(wanted, device))
