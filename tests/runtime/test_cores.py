import math
import os

import pytest
from containers import container

from nanogpt.runtime.cores import _core_limits, usable_cores

BOUND = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

V1 = "12:cpuset:/pod/app\n4:cpu,cpuacct:/pod/app\n1:name=systemd:/pod/app\n"
CONTAINERS = {
    "no /proc": ("", {}, None),
    "no limit": ("0::/\n", {"cpu.max": "max 100000\n"}, None),
    "its own group": ("0::/pod/app\n", {"pod/app/cpu.max": "150000 100000\n"}, 1.5),
    "the group above": ("0::/pod/app\n", {"pod/app/cpu.max": "max 100000\n", "pod/cpu.max": "70000 100000\n"}, 0.7),
    "a group out of sight": ("0::/../other\n", {"cpu.max": "80000 100000\n"}, 0.8),
    "v1": (V1, {"cpu/pod/app/cpu.cfs_quota_us": "60000", "cpu/pod/app/cpu.cfs_period_us": "50000\n"}, 1.2),
    "v1, no limit": (V1, {"cpu/pod/app/cpu.cfs_quota_us": "-1\n", "cpu/pod/app/cpu.cfs_period_us": "100000"}, None),
    "v1, by its full name": (
        V1,
        {"cpu,cpuacct/pod/app/cpu.cfs_quota_us": "9000", "cpu,cpuacct/pod/app/cpu.cfs_period_us": "10000"},
        0.9,
    ),
    "v1 and v2": (
        "1:cpu:/\n0::/pod\n",
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000", "pod/cpu.max": "90000 100000"},
        0.9,
    ),
}


@pytest.mark.parametrize(("lines", "files", "grant"), CONTAINERS.values(), ids=CONTAINERS)
def test_a_container_limits_the_cores(tmp_path, lines, files, grant):
    proc, cgroups = container(tmp_path, lines, files)
    assert min(_core_limits(proc, cgroups), default=None) == grant
    assert usable_cores(proc, cgroups) == (min(BOUND, math.ceil(grant)) if grant else BOUND)
    assert usable_cores(proc, cgroups, processes=2) == (min(BOUND, math.ceil(grant / 2)) if grant else BOUND)
