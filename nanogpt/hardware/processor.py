"""The processor: its name and the instructions that it has."""

import os
import platform
from pathlib import Path

from nanogpt.runtime.cgroups import read_text
from nanogpt.runtime.cores import usable_cores

X86 = {"plain": "", "AVX2": "avx2", "AVX512": "avx512f", "AVX512-BF16": "avx512_bf16", "AMX": "amx_bf16"}
"""Instruction sets from the oldest to the newest, and the Linux kernel's flag for each."""

ISA_LIMITS = {
    **dict.fromkeys(("sse41", "avx"), "plain"),
    **dict.fromkeys(("avx2", "avx2_vnni", "avx2_vnni_2"), "AVX2"),
    **dict.fromkeys(("avx512_core", "avx512_core_vnni"), "AVX512"),
    **dict.fromkeys(("avx512_core_bf16", "avx512_core_fp16", "avx10_1_512"), "AVX512-BF16"),
}
"""The newest set that each value of ONEDNN_MAX_CPU_ISA allows; other values allow all."""


def instruction_set() -> str:
    """Name the newest instruction set that torch's matrix products use here: a key of X86, or another processor's name.

    ONEDNN_MAX_CPU_ISA is respected, because oneDNN, which multiplies in bf16, obeys it.
    Source: oneDNN's CPU dispatcher control, https://uxlfoundation.github.io/oneDNN/dev_guide_cpu_dispatcher_control.html
    """
    import torch

    if flags := _cpuinfo("flags").split():
        best = [name for name, flag in X86.items() if not flag or flag in flags][-1]
    else:
        best = torch.backends.cpu.get_cpu_capability()
        if best == "DEFAULT":
            best = "NEON" if platform.machine() in ("arm64", "aarch64") else "plain"
    if best not in X86:
        return best
    allowed = ISA_LIMITS.get(os.environ.get("ONEDNN_MAX_CPU_ISA", "").lower(), best)
    return min(best, allowed, key=list(X86).index)


def processor_name() -> str:
    """The processor's name for itself."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def describe_processor() -> str:
    """Describe the machine in one line, to stand beside figures that depend on it."""
    import torch

    cores = usable_cores()
    return f"{processor_name()}, {cores} core{'s' * (cores > 1)}, {instruction_set()}, torch {torch.__version__}"


def _cpuinfo(field: str) -> str:
    """A field of the first processor in Linux's /proc/cpuinfo; empty if there is none."""
    for line in read_text(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == field:
            return value.strip()
    return ""
