"""The processor: how many cores this process may use, and which instructions they have.

It imports torch only where torch is asked, so that data preparation can count cores without it.
"""

import contextlib
import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from nanogpt.hardware.cgroups import CGROUPS, PROC, enclosing_groups, read_text

X86 = {"plain": "", "AVX2": "avx2", "AVX512": "avx512f", "AVX512-BF16": "avx512_bf16", "AMX": "amx_bf16"}
"""Instruction sets from the oldest to the newest, and the Linux kernel's flag for each."""

ISA_LIMITS = {
    value: name
    for name, values in {
        "plain": "sse41 avx",
        "AVX2": "avx2 avx2_vnni avx2_vnni_2",
        "AVX512": "avx512_core avx512_core_vnni",
        "AVX512-BF16": "avx512_core_bf16 avx512_core_fp16 avx10_1_512",
    }.items()
    for value in values.split()
}
"""The newest set that each value of ONEDNN_MAX_CPU_ISA allows; other values allow all."""


def usable_cores(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Count the cores this process may use, at least 1: those it is bound to, or fewer if its container has a limit.

    A limit of 1.5 cores counts as 2. With more threads than that, all are stopped for the rest of every period once
    they have used up the container's quota.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return math.ceil(min([bound, *_core_limits(proc, cgroups)]))


def _core_limits(proc: Path, cgroups: Path) -> Iterator[float]:
    """Yield the limit in cores, above 0, of each control group around this process that has one.

    Sources: the kernel's admin-guide/cgroup-v2 (cpu.max) and scheduler/sched-bwc (cpu.cfs_quota_us).
    """
    for folder, version in enclosing_groups("cpu", proc, cgroups):
        files = ["cpu.max"] if version == 2 else ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        with contextlib.suppress(ValueError):  # no such file, no limit ("max"), or an unknown format
            quota, period = map(int, " ".join(read_text(folder / file) for file in files).split())
            if quota > 0 and period > 0:  # -1 is no limit
                yield quota / period


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
