"""The processor: how many cores this process may use, and what they can do."""

import contextlib
import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import torch

X86 = {"plain": "", "AVX2": "avx2", "AVX512": "avx512f", "AVX512-BF16": "avx512_bf16", "AMX": "amx_bf16"}
"""Instruction sets from the least to the best, and the kernel's flag for each."""

HIDING = {
    "sse41": "plain",
    "avx": "plain",
    "avx2": "AVX2",
    "avx2_vnni": "AVX2",
    "avx2_vnni_2": "AVX2",
    "avx512_core": "AVX512",
    "avx512_core_vnni": "AVX512",
    "avx512_core_bf16": "AVX512-BF16",
    "avx512_core_fp16": "AVX512-BF16",
    "avx10_1_512": "AVX512-BF16",
}
"""The best set that each value of ONEDNN_MAX_CPU_ISA leaves; values that are not here hide none of them."""


def usable_cores(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores this process may use, at least 1: those it is bound to, or fewer where its container is granted less.

    A grant of part of a core counts as the whole: 1.5 are 2. More threads than that are stopped for the
    rest of every period once they have used up their quota.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return math.ceil(min([bound, *_granted_cores(proc, cgroups)]))


def _granted_cores(proc: Path, cgroups: Path) -> Iterator[float]:
    """Cores granted to each control group around this process, where it has a limit; all above 0.

    Sources: the kernel's admin-guide/cgroup-v2 (cpu.max) and scheduler/sched-bwc (cpu.cfs_quota_us).
    """
    for line in _read_text(proc / "self" / "cgroup").splitlines():
        controllers, _, group = line.partition(":")[2].partition(":")
        if not controllers:
            mounts, files = [""], ["cpu.max"]
        elif "cpu" in controllers.split(","):
            mounts, files = ["cpu", controllers], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        path = PurePosixPath(group.lstrip("/"))
        for folder in (cgroups / mount / above for mount in mounts for above in (path, *path.parents)):
            with contextlib.suppress(ValueError):  # no such file, no limit ("max"), or nothing that this knows
                quota, period = map(int, " ".join(_read_text(folder / file) for file in files).split())
                if quota > 0 and period > 0:  # -1 is no limit
                    yield quota / period


def instruction_set() -> str:
    """The best instruction set that torch's products use here: a key of X86, or on other processors its own name.

    ONEDNN_MAX_CPU_ISA counts, since oneDNN, which multiplies in bf16, obeys it.
    Source: oneDNN's CPU dispatcher control, https://uxlfoundation.github.io/oneDNN/dev_guide_cpu_dispatcher_control.html
    """
    if flags := _cpuinfo("flags").split():
        best = [name for name, flag in X86.items() if not flag or flag in flags][-1]
    else:
        best = torch.backends.cpu.get_cpu_capability()
        if best == "DEFAULT":
            best = "NEON" if platform.machine() in ("arm64", "aarch64") else "plain"
    if best not in X86:
        return best
    left = HIDING.get(os.environ.get("ONEDNN_MAX_CPU_ISA", "").lower(), best)
    return min(best, left, key=list(X86).index)


def processor_name() -> str:
    """What the processor calls itself."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def describe_processor() -> str:
    """One line about the machine, for figures that depend on it."""
    cores = usable_cores()
    return f"{processor_name()}, {cores} core{'s' * (cores > 1)}, {instruction_set()}, torch {torch.__version__}"


def _cpuinfo(field: str) -> str:
    """A field of the first processor that Linux lists; empty where there is none."""
    for line in _read_text(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == field:
            return value.strip()
    return ""


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
