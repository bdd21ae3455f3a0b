import pytest
from benchmark_shapes import SETTINGS
from layers_checks import KINDS
from step_parts_checks import TOKENS, C, flops

from nanogpt.benchmark import layers

T, HEAD = 16, 8


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
