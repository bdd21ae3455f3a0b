"""Speed of matrix products on this processor in each number format, measured once per machine."""

import contextlib
import functools
import json
import math
import os
import time
from dataclasses import asdict, dataclass

import torch

from nanogpt.hardware.processor import instruction_set, processor_name
from nanogpt.runtime import atomic
from nanogpt.runtime.workdir import work_folder

EXACT = 2e-6
"""Greatest relative error of a product in full fp32, which gives about 3e-7; rounded to bf16 it gives 2e-3."""


@dataclass(frozen=True)
class Rates:
    """Floating point operations per second of matrix products on one thread.

    `float32_onednn` is fp32 by oneDNN's kernels; `exact` tells whether they keep full fp32 here.
    """

    float32: float
    float32_onednn: float
    bfloat16: float
    exact: bool

    @property
    def onednn_pays(self) -> bool:
        """Whether oneDNN should compute fp32 products: it is as exact, and clearly faster."""
        return self.exact and self.float32_onednn > 1.1 * self.float32

    @property
    def bfloat16_pays(self) -> bool:
        """Whether bf16 products are clearly faster than the better of the fp32 ones."""
        return self.bfloat16 > 1.2 * (self.float32_onednn if self.onednn_pays else self.float32)


def measure_matmul_flops(dtype: torch.dtype, size: int = 1024, repeats: int = 5) -> float:
    """Measure floating point operations per second of a square matrix product on the CPU: best of several."""
    a, b = (torch.ones(size, size, dtype=dtype) for _ in range(2))
    out = torch.empty(size, size, dtype=dtype)
    best = float("inf")
    for _ in range(repeats + 1):  # the first one warms up
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


@functools.cache
def measured_rates() -> Rates:
    """The rates of this machine, read from `.work` or measured in about 0.1 s and written there.

    They are stored by processor, instruction set, version of torch and settings of its libraries.
    """
    identity = {"cpu": processor_name(), "set": instruction_set(), "torch": torch.__version__}
    identity |= {key: os.environ[key] for key in os.environ if key.startswith(("ONEDNN_", "DNNL_", "MKL_"))}
    with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):  # missing or damaged
        file = work_folder("rates", "cpu", identity) / "rates.json"
        found = Rates(**json.loads(file.read_text(encoding="utf-8")))
        speeds = (found.float32, found.float32_onednn, found.bfloat16)
        if found.exact in (True, False) and all(isinstance(rate, float) and 0 < rate < math.inf for rate in speeds):
            return found
    found = _measure()
    with contextlib.suppress(OSError):  # a disk that cannot be written
        atomic.write_text(work_folder("rates", "cpu", identity) / "rates.json", json.dumps(asdict(found)))
    return found


def use_fast_float32(onednn: bool | None = None) -> bool:
    """Let oneDNN compute this process's fp32 products if it is as exact and clearly faster; return whether it does.

    `onednn` replaces the decision by speed, for a run that is resumed. MKL, torch's own library on x86, runs at half
    the rate of oneDNN on AMD's processors. The setting that moves products to oneDNN also allows it to round to bf16,
    which it does with AMX (3.12). Source: https://docs.pytorch.org/docs/stable/notes/mkldnn.html
    """
    onednn = measured_rates().onednn_pays if onednn is None else onednn and measured_rates().exact
    if onednn:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    return onednn


def _measure() -> Rates:
    """Measure the best of several short products, in alternating formats so that other load affects all alike.

    It uses one thread: several would wait for one whose core another process uses.
    """
    formats = {
        "float32": (torch.float32, "ieee"),
        "float32_onednn": (torch.float32, "bf16"),
        "bfloat16": (torch.bfloat16, "ieee"),
    }
    best = dict.fromkeys(formats, 0.0)
    matmul = torch.backends.mkldnn.matmul
    threads, precision_before = torch.get_num_threads(), matmul.fp32_precision
    torch.set_num_threads(1)
    try:
        for _ in range(3):
            for kind, (dtype, precision) in formats.items():
                matmul.fp32_precision = precision
                best[kind] = max(best[kind], measure_matmul_flops(dtype, size=384, repeats=2))
        matmul.fp32_precision = "bf16"
        exact = torch.backends.mkldnn.is_available() and _relative_error() < EXACT
    finally:
        torch.set_num_threads(threads)
        matmul.fp32_precision = precision_before
    return Rates(**best, exact=exact)


def _relative_error() -> float:
    """Measure the greatest relative error of fp32 products in the layouts of a layer, forward and backward."""
    generator = torch.Generator().manual_seed(0)  # torch's own randomness belongs to the training
    x, weight, grad = (torch.randn(*shape, generator=generator) for shape in ((512, 320), (832, 320), (512, 832)))
    errors = []
    for a, b in ((x, weight.t()), (grad, weight), (grad.t(), x)):
        truth = a.double() @ b.double()
        errors.append(((a @ b - truth).norm() / truth.norm()).item())
    return max(errors)
