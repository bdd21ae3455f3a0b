import math

import pytest
from test_bench_parts import TOKENS, C, flops
from test_bench_settings import SETTINGS

from nanogpt.benchmark import layers

T, HEAD = 16, 8
KINDS = ["rmsnorm", "layernorm", "swiglu", "gelu", "gqa", "mha", "rope", "learned"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_improvements_and_what_they_replace(dtype):
    steps = layers.layers("it.", dtype, SETTINGS)
    assert list(steps) == [f"it.{kind}" for kind in KINDS]
    assert {*layers.PAIRS, *layers.PAIRS.values()} == set(KINDS)
    counts = {kind: flops(steps[f"it.{kind}"]) for kind in KINDS}
    attention = 2 * C * C * 6 * TOKENS + 12 * T * C * TOKENS  # queries, output; scores and their sums
    assert counts == {
        "rmsnorm": 0, "layernorm": 0, "rope": 0, "learned": 0,
        "swiglu": 6 * TOKENS * 3 * C * 64, "gelu": 6 * TOKENS * 8 * C * C,
        "gqa": attention + 6 * TOKENS * 2 * C * HEAD, "mha": attention + 6 * TOKENS * 2 * C * C,
    }  # fmt: skip


def check_improvements(figures: dict) -> None:
    """What `benchmark` returns, whatever the clock says."""
    assert list(figures) == ["layers_ms", "layer_speedup"]
    assert list(figures["layers_ms"]) == list(figures["layer_speedup"]) == ["fp32", "bf16"]
    for short, ms in figures["layers_ms"].items():
        assert list(ms) == KINDS and all(0 < value < math.inf for value in ms.values())
        assert figures["layer_speedup"][short] == {
            f"{new}_over_{old}": pytest.approx(ms[old] / ms[new], rel=1e-4) for new, old in layers.PAIRS.items()
        }
