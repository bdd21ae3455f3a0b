"""What this machine is and which number format its matrix products are fastest in."""

import os
import platform
import resource
import sys
import time
from typing import Literal

import torch

from nanogpt.errors import BadSetting

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


def threads(wanted: int | Literal["auto"]) -> int:
    """Set torch's threads: as wanted, or one for every core this process may run on."""
    count = _usable_cores() if wanted == "auto" else wanted
    torch.set_num_threads(count)
    return count


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def dtype(wanted: Dtype, device: torch.device) -> torch.dtype:
    """The dtype of matrix products.

    "auto" takes bfloat16 where it is faster. The CPU's flags alone do not tell (some CPUs list
    bf16 and run it slower than fp32), so a product of a few milliseconds is measured in both.
    """
    if wanted != "auto":
        return getattr(torch, wanted)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "mps":
        return torch.float32
    return torch.bfloat16 if matmul_flops(torch.bfloat16) > 1.2 * matmul_flops(torch.float32) else torch.float32


def matmul_flops(dtype: torch.dtype, size: int = 1024, repeats: int = 5) -> float:
    """Floating point operations a second of a square matrix product on the CPU: best of several."""
    a, b = (torch.ones(size, size, dtype=dtype) for _ in range(2))
    out = torch.empty(size, size, dtype=dtype)
    best = float("inf")
    for _ in range(repeats + 1):  # the first one warms up
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Context in which matrix products run in `dtype`; with float32 it changes nothing."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def precision(wanted: Dtype, device: torch.device) -> torch.autocast:
    """Context in which matrix products run in the wanted dtype, resolved by `dtype`."""
    return autocast(device, dtype(wanted, device))


def peak_mib() -> float:
    """Greatest resident memory of this process so far, in MiB."""
    if os.path.exists("/proc/self/status"):  # what getrusage says there is inherited from the parent process
        with open("/proc/self/status", encoding="utf-8") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / (1 << 10)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)  # macOS counts bytes, Linux KiB


def describe() -> str:
    """One line about the machine, for figures that depend on it."""
    return (
        f"{_cpu_name()}, {_usable_cores()} cores, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
    )


def _cpu_name() -> str:
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
