"""Resolves every `auto` setting (device, dtype, threads, compilation) for this machine."""

import os
import platform
from dataclasses import dataclass
from typing import Literal

import torch

from nanogpt.hardware.compilation import Compile, check_compiler, should_compile
from nanogpt.hardware.device import Dtype, choose_device, choose_dtype, configure_torch
from nanogpt.hardware.matmul_rates import measured_rates
from nanogpt.hardware.processor import instruction_set, processor_name
from nanogpt.runtime.cores import usable_cores


@dataclass(frozen=True)
class ComputeSetup:
    """How a training run computes, with every `auto` resolved; a resumed run keeps the setup that it started with.

    `dtype` is that of matrix products, `float32` the library that multiplies in fp32, `threads` those of each process.
    """

    device: str
    dtype: Literal["float32", "bfloat16"]
    float32: Literal["oneDNN", "torch's own"]
    threads: int
    compile: bool
    processes: int = 1

    def apply(self) -> tuple[torch.device, torch.dtype]:
        """Set up this process accordingly; return device and dtype.

        Raises BadSetting if this machine lacks the device or the compiler of the machine where the run started.
        """
        device = choose_device(self.device)
        if self.compile:
            check_compiler(device)
        configure_torch(self.threads, onednn=self.float32 == "oneDNN")
        return device, getattr(torch, self.dtype)


def resolve_auto(device: str, dtype: Dtype, threads: int | str, compile_mode: Compile, flops: float) -> ComputeSetup:
    """Resolve the settings of section `train` for a run of `flops` floating point operations on this machine.

    Raises BadSetting for a device or a compiler that this machine lacks.
    """
    found = choose_device(device)
    return ComputeSetup(
        found.type,
        str(choose_dtype(dtype, found)).removeprefix("torch."),
        "oneDNN" if found.type == "cpu" and measured_rates().onednn_pays else "torch's own",
        usable_cores() if threads == "auto" else threads,
        should_compile(compile_mode, flops, found),
    )


def describe_machine(device: torch.device) -> dict[str, str]:
    """List what else can change the bits of a result between two machines that compute on `device`."""
    return {
        "processor": processor_name(),
        "instruction set": instruction_set(),
        "system": f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}".strip(", "),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        **({"gpu": torch.cuda.get_device_name()} if device.type == "cuda" else {}),
        **{key: os.environ[key] for key in sorted(os.environ) if key.startswith(("MKL_", "ONEDNN_", "DNNL_"))},
    }
