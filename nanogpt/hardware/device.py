"""Device and dtype to compute on, and the setup of torch for training."""

import os
from typing import Literal

import torch

from nanogpt.hardware.matmul_rates import measured_rates, use_fast_float32
from nanogpt.hardware.memory import keep_freed_memory
from nanogpt.runtime.cores import usable_cores
from nanogpt.runtime.errors import BadSetting

Dtype = Literal["auto", "float32", "bfloat16"]


def choose_device(name: str = "auto") -> torch.device:
    """Choose the device to compute on; "auto" prefers CUDA, then Apple's MPS, then the CPU.

    Raises BadSetting for a device that this machine lacks.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, usable in available.items() if usable)
    elif not available[name]:
        raise BadSetting("train.device", name, "torch finds none on this machine", "choose auto or cpu")
    return torch.device(name)


def set_threads(wanted: int | Literal["auto"]) -> int:
    """Set torch's number of threads, by default one for each core that this process may use, and return it."""
    count = usable_cores() if wanted == "auto" else wanted
    torch.set_num_threads(count)
    return count


def configure_torch(wanted: int | Literal["auto"], onednn: bool | None = None) -> None:
    """Set up torch in this process for fast and reproducible training.

    Sets threads, the library of fp32 products (`onednn`, by default the faster), reuse of freed memory, denormals to 0.
    """
    set_threads(wanted)
    use_fast_float32(onednn)
    keep_freed_memory()
    torch.set_flush_denormal(True)
    use_deterministic_algorithms()


def use_deterministic_algorithms() -> None:
    """Make torch sum in the same order each time, or warn of a GPU kernel that cannot.

    Without this, compiled gradients of the embedding differ between runs: threads add to the same rows in any order.
    torch would also fill new buffers with NaN, which costs a pass over them.
    Source: https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False


def choose_dtype(wanted: Dtype, device: torch.device) -> torch.dtype:
    """Choose the dtype of matrix products; "auto" is bfloat16 where it is faster than float32.

    On CUDA that is where the hardware has it and torch does not emulate it. On a CPU its flags do not tell (some list
    bf16 and are slower in it), so `measured_rates` decides.
    """
    if wanted != "auto":
        return getattr(torch, wanted)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "mps":
        return torch.float32
    return torch.bfloat16 if measured_rates().bfloat16_pays else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Context in which matrix products run in `dtype`; with float32 it changes nothing."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
