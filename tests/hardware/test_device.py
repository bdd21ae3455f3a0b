import pytest
import torch

from nanogpt.hardware import device
from nanogpt.hardware.device import choose_device, choose_dtype
from nanogpt.hardware.matmul_rates import Rates
from nanogpt.runtime.errors import UserError

CPU = torch.device("cpu")


def test_devices():
    assert choose_device("cpu") == CPU
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert choose_device("auto").type == expected


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_missing(name, monkeypatch):
    for backend in (torch.cuda, torch.backends.mps):
        monkeypatch.setattr(backend, "is_available", lambda: False)
    with pytest.raises(UserError, match=rf"train\.device = '{name}': .* choose auto or cpu"):
        choose_device(name)


@pytest.mark.parametrize("rate", [2e9, 1e9])
def test_dtypes(monkeypatch, rate):
    monkeypatch.setattr(device, "measured_rates", lambda: Rates(1e9, 1e9, rate, exact=True))
    assert choose_dtype("auto", CPU) == (torch.bfloat16 if rate == 2e9 else torch.float32)
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16
    assert choose_dtype("float32", CPU) == torch.float32
    assert choose_dtype("auto", torch.device("mps")) == torch.float32


@pytest.mark.parametrize("native", [True, False])
def test_cuda_computes_in_bf16_only_if_the_hardware_does(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    assert choose_dtype("auto", torch.device("cuda")) == (torch.bfloat16 if native else torch.float32)
