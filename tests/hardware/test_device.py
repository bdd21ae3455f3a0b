import os
import subprocess
import sys

import pytest
import torch

from nanogpt.hardware.device import autocast, autocast_to, choose_device, choose_dtype
from nanogpt.hardware.matmul_rates import measure_matmul_flops, use_fast_float32
from nanogpt.runtime.errors import UserError

CPU = torch.device("cpu")


def test_devices():
    assert choose_device("cpu") == CPU
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert choose_device("auto").type == expected


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there(name):
    if choose_device("auto").type == name:
        assert choose_device(name).type == name
    else:
        with pytest.raises(UserError, match=rf"train\.device = '{name}': .* choose auto or cpu"):
            choose_device(name)


def test_dtypes():
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16
    assert choose_dtype("float32", CPU) == torch.float32
    assert choose_dtype("auto", torch.device("mps")) == torch.float32


def test_auto_agrees_with_a_measurement():
    torch.set_num_threads(1)
    before = torch.backends.mkldnn.matmul.fp32_precision
    try:
        use_fast_float32()
        ratio = measure_matmul_flops(torch.bfloat16, 384, 20) / measure_matmul_flops(torch.float32, 384, 20)
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before
    chosen = choose_dtype("auto", CPU)
    if ratio > 1.6:
        assert chosen == torch.bfloat16
    elif ratio < 0.9:
        assert chosen == torch.float32
    else:  # too close to tell on a busy machine
        assert chosen in (torch.bfloat16, torch.float32)


def test_auto_is_fp32_where_onednn_may_not_use_bf16s_instructions(tmp_path):
    code = (
        "import torch; from nanogpt.hardware import cores, device\n"
        "assert cores.instruction_set() in ('AVX2', 'plain', 'NEON')\n"
        "print(device.choose_dtype('auto', torch.device('cpu')))"
    )
    env = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "DVC_ROOT": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == "torch.float32"


def test_autocast():
    a = torch.ones(4, 4)
    with autocast(CPU, torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
    with autocast(CPU, torch.float32):
        assert (a @ a).dtype == torch.float32
    with autocast_to("bfloat16", CPU):
        assert (a @ a).dtype == torch.bfloat16
    assert (a @ a).dtype == torch.float32
