import math

import pytest
import torch

from nanogpt.bench import training
from nanogpt.bench.training import BenchmarkSettings, Variant
from nanogpt.errors import BadSetting


def settings(**changed) -> BenchmarkSettings:
    shape = {"n_layer": 2, "n_head": 4, "n_kv_head": 1, "n_embd": 32, "block_size": 16, "vocab_size": 64}
    return BenchmarkSettings(**shape | {"batch_size": 3, "num_iters": 2, "dtype": "float32", "threads": 1} | changed)


def check(figures: dict, names: list[str]) -> None:
    """Relations between the figures that hold whatever the clock says."""
    assert set(figures) == {"speedup", "step_s", "tokens_per_s", "peak_mib", "parameters", "cache_mib"}
    for group in ("step_s", "tokens_per_s", "peak_mib"):
        assert list(figures[group]) == names
        assert all(type(number) is float and 0 < number < math.inf for number in figures[group].values())
    for name in names:
        assert figures["tokens_per_s"][name] * figures["step_s"][name] == pytest.approx(3 * 16)
    assert figures["speedup"] == {
        f"{name}_over_base_fp32": pytest.approx(figures["step_s"]["base_fp32"] / figures["step_s"][name])
        for name in names[1:]
    }


@pytest.fixture(scope="module")
def figures() -> dict:
    ballast = torch.ones(200 * 2**20)  # 800 MiB of this process, which are no business of the ones it measures
    found = training.benchmark(settings())
    assert max(found["peak_mib"].values()) < ballast.nbytes / 2**20 * 0.9
    return found


def test_float32_leaves_bfloat16_out(figures):
    check(figures, ["base_fp32", "optimized_fp32"])
    assert min(figures["peak_mib"].values()) > 50


@pytest.mark.slow
def test_bfloat16_adds_a_variant():
    check(training.benchmark(settings(dtype="bfloat16")), ["base_fp32", "optimized_fp32", "optimized_bf16"])


def test_parameters_by_hand(figures):
    C, V, T, layers = 32, 64, 16, 2
    block = 2 * 2 * C + (3 * C * C + 3 * C) + (C * C + C) + (4 * C * C + 4 * C) + (4 * C * C + C)
    assert figures["parameters"]["base"] == 2 * V * C + T * C + layers * block + 2 * C
    block = 2 * C + 2 * C * C + 2 * C * (C // 4) + 3 * C * 64
    assert figures["parameters"]["optimized"] == 2 * V * C + layers * block + C


def test_the_cache_shrinks_by_the_groups(figures):
    """Keys and values in fp32: 2 x layers x heads x positions x width of a head, four times fewer heads."""
    assert figures["cache_mib"]["base"] * 2**20 == 2 * 2 * 4 * 16 * 8 * 4
    assert figures["cache_mib"]["base"] == 4 * figures["cache_mib"]["optimized"]


def test_the_table_holds_the_figures(figures):
    text = training.table(figures)
    lines = text.splitlines()
    assert len(lines) == 1 + 2 + 2
    assert lines[1].startswith("base_fp32") and lines[1].endswith("1.00x")
    assert lines[2].startswith("optimized_fp32")
    assert f"{figures['speedup']['optimized_fp32_over_base_fp32']:.2f}x" in lines[2]
    assert f"{figures['peak_mib']['base_fp32']:,.0f}" in lines[1]
    assert f"base: {figures['parameters']['base']:,} parameters" in lines[3]
    assert len({len(line) for line in lines[:3]}) == 1


def test_variants_train_from_the_same_tokens():
    names = [Variant(arch, dtype).name for arch in ("base", "optimized") for dtype in (torch.float32, torch.bfloat16)]
    assert names == ["base_fp32", "base_bf16", "optimized_fp32", "optimized_bf16"]
    first, second = (training._Trainer(Variant("base", torch.float32), settings()) for _ in range(2))
    before = first.model.lm_head.weight.clone()
    assert torch.equal(first.batch[0], second.batch[0]) and torch.equal(before, second.model.lm_head.weight)
    assert first.step() > 0
    assert not torch.equal(first.model.lm_head.weight, before)


@pytest.mark.parametrize(
    ("key", "value"),
    [("vocab_size", 0), ("batch_size", 0), ("num_iters", 0), ("threads", 0), ("n_layer", 0), ("n_embd", 33),
     ("n_kv_head", 3)],
)  # fmt: skip
def test_wrong_settings(key, value):
    with pytest.raises(BadSetting) as caught:
        settings(**{key: value})
    assert (caught.value.key, caught.value.value) == (key, value)
