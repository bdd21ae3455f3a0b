from benchmark_shapes import SETTINGS, count_flops

from nanogpt.research import layers

C, T, TOKENS, HEAD = 32, 16, 48, 8


def test_layers_and_those_they_replace():
    counts = {name: count_flops(step) for name, step in layers.build_layers("", "bfloat16", SETTINGS).items()}
    attention = 2 * C * C * 6 * TOKENS + 12 * T * C * TOKENS  # queries, output; scores and their sums
    assert counts == {
        "rmsnorm": 0, "layernorm": 0, "rope": 0, "learned": 0,
        "swiglu": 6 * TOKENS * 3 * C * 64, "gelu": 6 * TOKENS * 8 * C * C,
        "gqa": attention + 6 * TOKENS * 2 * C * HEAD, "mha": attention + 6 * TOKENS * 2 * C * C,
    }  # fmt: skip
