import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from nanogpt.hardware import matmul_rates
from nanogpt.hardware.matmul_rates import Rates, measure_matmul_flops, measured_rates, use_fast_float32

MATMUL = torch.backends.mkldnn.matmul
EVEN, FASTER = 1.05e9, 2e9


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """A process that has measured nothing, in a repository where nothing was measured."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    for key in [key for key in os.environ if key.startswith(("ONEDNN_", "DNNL_", "MKL_"))]:
        monkeypatch.delenv(key)
    before = MATMUL.fp32_precision
    measured_rates.cache_clear()
    yield
    measured_rates.cache_clear()
    MATMUL.fp32_precision = before


def stored(root: Path) -> Path:
    return next(root.glob(".work/rates/*/*"))


def test_the_rate_counts_two_operations_for_each_product(monkeypatch):
    seconds = iter([0.0, 9.0, 10.0, 12.0, 20.0, 21.0])  # warm-up 9 s, then 2 s and 1 s
    monkeypatch.setattr(matmul_rates.time, "perf_counter", lambda: next(seconds))
    assert measure_matmul_flops(torch.float32, size=10, repeats=2) == 2 * 10**3


def relative_error() -> float:
    """Greatest error of torch's fp32 products against numpy's in float64, plain and with either side transposed."""
    generator = np.random.default_rng(0)
    a, b = (generator.standard_normal((400, 400)).astype(np.float32) for _ in range(2))
    errors = []
    for left, right in ((a, b), (a.T, b), (a, b.T)):
        product = (torch.from_numpy(left) @ torch.from_numpy(right)).numpy()
        truth = left.astype(np.float64) @ right.astype(np.float64)
        errors.append(np.linalg.norm(product - truth) / np.linalg.norm(truth))
    return max(errors)


def test_exact_says_whether_a_product_is_rounded():
    exact = measured_rates().exact
    MATMUL.fp32_precision = "bf16"
    assert exact == (torch.backends.mkldnn.is_available() and relative_error() < 2e-6)


def test_measuring_leaves_torch_as_it_was():
    torch.set_num_threads(2)
    MATMUL.fp32_precision = "ieee"
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    measured_rates()
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == 2
    assert MATMUL.fp32_precision == "ieee"


def write(root: Path, **numbers) -> Rates:
    """Put absurd rates in the place of the measured ones."""
    measured_rates()
    absurd = Rates(**{"float32": 1e9, "float32_onednn": EVEN, "bfloat16": EVEN, "exact": True} | numbers)
    stored(root).write_text(json.dumps(asdict(absurd)))
    measured_rates.cache_clear()
    return absurd


@pytest.mark.parametrize("damaged", [b'{"float32": 1e9, "flo', b"[1, 2, 3]", b'{"float32": 1e9}'])
def test_a_damaged_file_is_measured_again_and_replaced(tmp_path, damaged):
    measured_rates()
    stored(tmp_path).write_bytes(damaged)
    measured_rates.cache_clear()
    found = measured_rates()
    assert found.exact in (True, False) and found.float32 > 1e6
    assert json.loads(stored(tmp_path).read_text()) == asdict(found)


def test_other_settings_of_the_libraries_are_measured_anew(tmp_path, monkeypatch):
    absurd = write(tmp_path, float32=1.0)
    assert measured_rates() == absurd
    measured_rates.cache_clear()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert measured_rates().float32 > 1e6 * absurd.float32
    assert len(list(tmp_path.glob(".work/rates/*/*"))) == 2


@pytest.mark.parametrize("where", [".work", ".work/rates"])
def test_a_disk_that_cannot_be_written_is_no_error(tmp_path, where):
    place = tmp_path / where
    place.parent.mkdir(exist_ok=True)
    place.write_text("a file where a folder belongs")
    assert measured_rates().float32 > 1e6
    assert place.is_file()


@pytest.mark.parametrize(
    ("onednn", "exact", "moved"), [(FASTER, True, True), (FASTER, False, False), (EVEN, True, False)]
)
def test_fp32_moves_to_onednn_where_that_is_exact_and_faster(tmp_path, onednn, exact, moved):
    write(tmp_path, float32_onednn=onednn, exact=exact)
    before = MATMUL.fp32_precision
    assert use_fast_float32() is moved
    assert MATMUL.fp32_precision == ("bf16" if moved else before)


@pytest.mark.parametrize(
    ("onednn", "exact", "bfloat16", "pays"),
    [
        (EVEN, True, FASTER, True),
        (EVEN, True, EVEN, False),
        (FASTER, True, 1.1 * FASTER, False),  # twice MKL's fp32, but not oneDNN's
        (FASTER, True, 1.3 * FASTER, True),
        (FASTER, False, 1.1 * FASTER, True),  # oneDNN's is fast because it rounds, so it is not used
    ],
)
def test_bf16_has_to_beat_the_fp32_that_is_used(onednn, exact, bfloat16, pays):
    assert Rates(1e9, onednn, bfloat16, exact).bfloat16_pays is pays
