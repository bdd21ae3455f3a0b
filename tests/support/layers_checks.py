"""What the comparison of layers returns."""

import math

import pytest

from nanogpt.benchmark import layers

KINDS = ["rmsnorm", "layernorm", "swiglu", "gelu", "gqa", "mha", "rope", "learned"]


def check_improvements(figures: dict) -> None:
    """What `benchmark` returns, whatever the clock says."""
    assert list(figures) == ["layers_ms", "layer_speedup"]
    assert list(figures["layers_ms"]) == list(figures["layer_speedup"]) == ["fp32", "bf16"]
    for short, ms in figures["layers_ms"].items():
        assert list(ms) == KINDS and all(0 < value < math.inf for value in ms.values())
        assert figures["layer_speedup"][short] == {
            f"{new}_over_{old}": pytest.approx(ms[old] / ms[new], rel=1e-4) for new, old in layers.PAIRS.items()
        }
