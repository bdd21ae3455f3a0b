import platform
import subprocess
import sys

import psutil
import pytest
import torch
from containers import container

from nanogpt.hardware import memory
from nanogpt.hardware.memory import available_mib


def run(code: str) -> list[float]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def test_peak_memory_grows_by_what_is_touched_and_is_not_the_parents():
    ballast = torch.ones(200 * 2**20)  # 800 MiB: getrusage of a child of this process would say so much
    before, after, freed = run(
        "from nanogpt.hardware.memory import peak_mib\nbefore = peak_mib()\n"
        "x = b'x' * (200 << 20)\nafter = peak_mib()\n"
        "del x\nprint(before, after, peak_mib())"
    )
    assert 5 < before < ballast.nbytes / 2**20 * 0.9
    assert 195 < after - before < 230
    assert freed > after - 2  # Linux counts pages to within a few hundred


FAULTS = """
import resource
import torch
from nanogpt.hardware.memory import keep_freed_memory

def faults():
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(16 << 20).fill_(1.0)  # 64 MiB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start

torch.set_num_threads(1)
print(*(faults() for _ in range(3)))
keep_freed_memory()
print(*(faults() for _ in range(60)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_a_freed_buffer_serves_again():
    faults = run(FAULTS)
    fresh, settled = faults[:3], faults[-10:]
    assert min(fresh) >= 64 / 2  # every page, though a page may be as large as 2 MiB
    assert sum(settled) < min(fresh) / 10


def v2(folder: str, limit: object, used: int = 0, stat: str = "") -> dict[str, str]:
    return {f"{folder}memory.max": f"{limit}\n", f"{folder}memory.current": f"{used}\n", f"{folder}memory.stat": stat}


def v1(folder: str, limit: int, used: int = 0, stat: str = "") -> dict[str, str]:
    names = {"memory.limit_in_bytes": f"{limit}\n", "memory.usage_in_bytes": f"{used}\n", "memory.stat": stat}
    return {f"memory/{folder}{name}": text for name, text in names.items()}


NO_LIMIT_IN_V1 = 2**63 - 4096
V1 = "8:memory:/pod/app\n4:cpu,cpuacct:/pod/app\n0::/\n"
CONTAINERS = {
    "no limit": ("0::/\n", v2("", "max", 50), None),
    "its own group": ("0::/pod/app\n", v2("pod/app/", 5000, 2000), 3000),
    "files can go": ("0::/\n", v2("", 5000, 2000, "anon 900\ninactive_file 500\nactive_file 600\nfile 1100\n"), 4100),
    "the group above": ("0::/pod/app\n", v2("pod/app/", "max", 10) | v2("pod/", 700, 100), 600),
    "v1": (V1, v1("pod/app/", 5000, 2000, "inactive_file 1\ntotal_inactive_file 30\ntotal_active_file 40\n"), 3070),
    "no statistics": ("0::/\n", {"memory.max": "5000\n", "memory.current": "10\n"}, 4990),
}


@pytest.mark.parametrize(("lines", "files", "grant"), CONTAINERS.values(), ids=CONTAINERS)
def test_a_container_limits_the_memory(tmp_path, lines, files, grant):
    proc, cgroups = container(tmp_path, lines, files)
    grants = [grant for grant in memory._bytes_below_limits(proc, cgroups) if grant < 2**62]
    assert min(grants, default=None) == grant
    system = psutil.virtual_memory().available / 2**20
    expected = system if grant is None else max(0, grant) / 2**20
    assert available_mib(proc, cgroups) == pytest.approx(expected, rel=0.2)


def test_a_limit_of_the_process_itself_counts():
    (left,) = run(
        "import psutil, resource\nfrom nanogpt.hardware.memory import available_mib\n"
        "limit = psutil.Process().memory_info().vms + (64 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))\n"
        "print(available_mib())"
    )
    assert 60 < left <= 64
