"""How many cores this process may use: a fact of the machine, which `metrics/*-machine.json` records as `threads`."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

from nanogpt.runtime.cgroups import CGROUPS, PROC, enclosing_groups, read_text


def usable_cores(proc: Path = PROC, cgroups: Path = CGROUPS, processes: int = 1) -> int:
    """Count the cores this process may use, at least 1: those it is bound to, or fewer if its container has a limit.

    A limit of 1.5 cores counts as 2; more threads than that would be stopped while the container's quota is used up.
    `processes` share the limit.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return math.ceil(min([bound, *(limit / processes for limit in _core_limits(proc, cgroups))]))


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
