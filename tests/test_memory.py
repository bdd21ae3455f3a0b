import platform
import subprocess
import sys

import pytest
import torch

from nanogpt.hardware import keep_freed


def run(code: str) -> list[float]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def test_peak_memory_grows_by_what_is_touched_and_is_not_the_parents():
    ballast = torch.ones(200 * 2**20)  # 800 MiB: getrusage of a child of this process would say so much
    before, after, freed = run(
        "from nanogpt.hardware import peak_mib\nbefore = peak_mib()\nx = b'x' * (200 << 20)\nafter = peak_mib()\n"
        "del x\nprint(before, after, peak_mib())"
    )
    assert 50 < before < ballast.nbytes / 2**20 * 0.9
    assert 195 < after - before < 230
    assert freed > after - 2  # Linux counts pages to within a few hundred


FAULTS = """
import resource
import torch
from nanogpt.hardware import keep_freed

def faults():
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(16 << 20).fill_(1.0)  # 64 MiB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start

torch.set_num_threads(1)
print(*(faults() for _ in range(3)))
keep_freed()
print(*(faults() for _ in range(60)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_a_freed_buffer_serves_again():
    faults = run(FAULTS)
    fresh, settled = faults[:3], faults[-10:]
    assert min(fresh) >= 64 / 2  # every page, though a page may be as large as 2 MiB
    assert sum(settled) < min(fresh) / 10


def test_keeping_memory_is_no_error_anywhere(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))  # as musl and macOS answer
    monkeypatch.setattr("ctypes.CDLL", None)  # calling into that libc would fail
    keep_freed()
