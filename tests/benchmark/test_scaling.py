import math
from dataclasses import replace

import pytest
from benchmark_shapes import SETTINGS

from nanogpt.benchmark import scaling
from nanogpt.hardware.cores import usable_cores
from nanogpt.model.build import model_flops

REFERENCE = replace(SETTINGS, n_head=5, n_embd=320, block_size=256, batch_size=8, vocab_size=50304)


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in scaling.VALUES.items() for value in values])
def test_one_setting_varies(key, value):
    varied = scaling._varied(REFERENCE, key, value)
    assert getattr(varied, key) == value
    follow = {"n_embd": {"n_head", "n_kv_head"}, "block_size": {"batch_size"}}.get(key, set())
    assert replace(varied, **{name: getattr(REFERENCE, name) for name in {key, *follow}}) == REFERENCE


@pytest.mark.parametrize("width", scaling.VALUES["n_embd"])
def test_heads_stay_64_wide(width):
    config = scaling._varied(REFERENCE, "n_embd", width).config("optimized")
    assert config.head_dim == 64 and config.n_kv_head == 1


@pytest.mark.parametrize("block_size", scaling.VALUES["block_size"])
def test_longer_blocks_at_the_same_tokens_a_step(block_size):
    assert scaling._possible(REFERENCE, "block_size", block_size)
    assert scaling._varied(REFERENCE, "block_size", block_size).tokens == REFERENCE.tokens == 2048


def test_what_this_machine_or_batch_cannot_do_is_left_out():
    cores = usable_cores()
    assert [scaling._possible(REFERENCE, "threads", n) for n in (1, cores, cores + 1)] == [True, True, False]
    few = replace(REFERENCE, batch_size=2)
    assert [scaling._possible(few, "block_size", n) for n in (128, 512, 1024)] == [True, True, False]
    for key in ("n_embd", "batch_size", "vocab_size"):
        assert all(scaling._possible(REFERENCE, key, value) for value in scaling.VALUES[key])


@pytest.fixture(scope="module")
def point() -> dict[str, float]:
    return scaling._point(SETTINGS)


def test_a_point(point):
    assert list(point) == ["step_ms", "tokens_per_s", "gflops", "peak_mib"]
    assert all(type(value) is float and 0 < value < math.inf for value in point.values())
    assert point["tokens_per_s"] * point["step_ms"] / 1e3 == pytest.approx(3 * 16)
    flops = model_flops(SETTINGS.config("optimized"), 3 * 16)
    assert point["gflops"] * 1e9 * point["step_ms"] / 1e3 == pytest.approx(flops)


def test_the_table_shows_every_figure(point):
    text = scaling.table({"n_embd": {"128": point, "256": point}, "threads": {"1": point}})
    blocks = [block.splitlines() for block in text.split("\n\n")]
    assert [(block[0], [line.split()[0] for line in block[2:]]) for block in blocks] == [
        ("n_embd", ["128", "256"]),
        ("threads", ["1"]),
    ]
    for block in blocks:
        assert block[1].split() == list(point)
        for line in block[2:]:
            assert [float(text) for text in line.split()[1:]] == [round(value, 1) for value in point.values()]
