import os
import subprocess
import sys

import pytest
import torch

from nanogpt import hardware
from nanogpt.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.parametrize("count", [1, 2])
def test_threads_are_set_and_returned(count):
    assert hardware.threads(count) == count
    assert torch.get_num_threads() == count


def test_auto_takes_the_cores_this_process_may_use():
    found = hardware.threads("auto")
    assert found == torch.get_num_threads()
    assert 1 <= found <= os.cpu_count()
    if hasattr(os, "sched_setaffinity"):
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cores)})
        try:
            assert hardware.threads("auto") == 1
        finally:
            os.sched_setaffinity(0, cores)


def test_devices():
    assert hardware.device("cpu") == CPU
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert hardware.device("auto").type == expected


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there(name):
    if hardware.device("auto").type == name:
        assert hardware.device(name).type == name
    else:
        with pytest.raises(UserError, match=rf"train\.device = '{name}': .* choose auto or cpu"):
            hardware.device(name)


def test_dtypes():
    assert hardware.dtype("bfloat16", CPU) == torch.bfloat16
    assert hardware.dtype("float32", CPU) == torch.float32
    assert hardware.dtype("auto", torch.device("mps")) == torch.float32


def test_auto_agrees_with_a_measurement():
    ratio = hardware.matmul_flops(torch.bfloat16) / hardware.matmul_flops(torch.float32)
    chosen = hardware.dtype("auto", CPU)
    if ratio > 1.6:
        assert chosen == torch.bfloat16
    elif ratio < 0.9:
        assert chosen == torch.float32
    else:  # too close to tell on a busy machine
        assert chosen in (torch.bfloat16, torch.float32)


@pytest.mark.parametrize(("gain", "chosen"), [(1.0, torch.float32), (1.3, torch.bfloat16)])
def test_auto_wants_a_clear_gain(monkeypatch, gain, chosen):
    monkeypatch.setattr(hardware, "matmul_flops", lambda dtype: gain if dtype == torch.bfloat16 else 1.0)
    assert hardware.dtype("auto", CPU) == chosen


def test_the_speed_of_a_product_is_that_of_a_stopwatch():
    torch.set_num_threads(1)
    import timeit

    a = torch.ones(512, 512)
    seconds = min(timeit.repeat(lambda: a @ a, number=1, repeat=20))
    assert hardware.matmul_flops(torch.float32, size=512, repeats=20) == pytest.approx(2 * 512**3 / seconds, rel=0.7)


def test_autocast():
    a = torch.ones(4, 4)
    with hardware.autocast(CPU, torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
    with hardware.autocast(CPU, torch.float32):
        assert (a @ a).dtype == torch.float32
    with hardware.precision("bfloat16", CPU):
        assert (a @ a).dtype == torch.bfloat16
    assert (a @ a).dtype == torch.float32


def test_peak_memory_grows_by_what_is_touched_and_is_not_the_parents():
    ballast = torch.ones(200 * 2**20)  # 800 MiB: getrusage of a child of this process would say so much
    code = (
        "from nanogpt.hardware import peak_mib\nbefore = peak_mib()\nx = b'x' * (200 << 20)\nafter = peak_mib()\n"
        "del x\nprint(before, after, peak_mib())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after, freed = map(float, done.stdout.split())
    assert 50 < before < ballast.nbytes / 2**20 * 0.9
    assert 195 < after - before < 230
    assert freed > after - 2  # Linux counts pages to within a few hundred


def test_the_description_is_one_line():
    line = hardware.describe()
    assert "\n" not in line
    assert torch.__version__ in line and "cores" in line
