"""Memory: the peak of this process, what it can still take, and how it keeps what it frees."""

import contextlib
import ctypes
import platform
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from nanogpt.runtime.cgroups import CGROUPS, PROC, enclosing_groups, read_text

V2 = ("memory.max", "memory.current", "active_file", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_active_file", "total_inactive_file")


def peak_mib() -> float:
    """Greatest resident memory of this process so far, in MiB."""
    for line in read_text(PROC / "self" / "status").splitlines():  # on Linux getrusage reports the parent's peak too
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / (1 << 10)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)  # macOS counts bytes, Linux KiB


def available_mib(proc: Path = PROC, cgroups: Path = CGROUPS) -> float:
    """Memory this process can still take, in MiB, at least 0: what the system has, or less if it has a limit.

    A limit may be that of its container or its own (`ulimit -v`). Swap does not count; file caches do.
    """
    free = [psutil.virtual_memory().available, *_bytes_below_limits(proc, cgroups)]
    own_limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if own_limit != resource.RLIM_INFINITY:
        free.append(own_limit - psutil.Process().memory_info().vms)
    return max(0, min(free)) / (1 << 20)


def _bytes_below_limits(proc: Path, cgroups: Path) -> Iterator[int]:
    """Yield the bytes left in each control group around this process that has a limit; v1 has one of 2^63 by default.

    Sources: the kernel's admin-guide/cgroup-v2 (memory.max, memory.stat) and cgroup-v1/memory.
    """
    for folder, version in enclosing_groups("memory", proc, cgroups):
        limit, used, *files = V2 if version == 2 else V1
        with contextlib.suppress(ValueError):  # no such file, no limit ("max"), or an unknown format
            left = int(read_text(folder / limit)) - int(read_text(folder / used))
            stat = dict(line.split() for line in read_text(folder / "memory.stat").splitlines())
            yield left + sum(int(stat.get(name, 0)) for name in files)


def keep_freed_memory() -> None:
    """Let this process reuse the memory that it frees for its next buffers; without glibc, do nothing.

    Otherwise every large buffer of a training step gets new pages, which the kernel has to zero: a fifth of a step of
    the reference shape (docs/speed.md). Source: mallopt(3).
    """
    if platform.libc_ver()[0] == "glibc":
        libc, mmap_max, trim_threshold = ctypes.CDLL(None), -4, -1
        libc.mallopt(mmap_max, 0)  # large buffers come from the heap like small ones
        libc.mallopt(trim_threshold, -1)  # and the heap never shrinks
