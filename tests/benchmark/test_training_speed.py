import dataclasses
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from benchmark_shapes import SETTINGS, time_nothing
from imports import ROOT

from nanogpt.benchmark import decoding, training_speed
from nanogpt.benchmark.timing import Times
from stages import benchmark

TOKENS = 3 * 16
SPEEDUPS = {
    "optimized_bf16_over_base_fp32", "optimized_bf16_eager_over_base_fp32", "optimized_fp32_over_base_fp32",
    "without_amx_optimized_over_base_fp32", "lora_over_full",
}  # fmt: skip
PARTS_S = {"embedding": 1.0, "attention": 2.0, "mlp": 3.0, "head_loss": 6.0, "optimizer": 5.0}
PARTS_S |= {"products": 4.0, "bf16": 1 / 256, "fp32": 1 / 64}


@pytest.fixture(scope="module")
def figures() -> dict:
    """Of times by hand: `base_fp32` took 8 s in the first group and 6 s in the second; 100 MiB for each second."""
    groups = [
        {"base_fp32": 8.0, "base_bf16_compiled": 5.0, "optimized_bf16": 2.0, "without_amx_optimized": 4.0},
        {"base_fp32": 6.0, "optimized_fp32": 3.0, "optimized_bf16_eager": 2.5},
        {"full": 2.25, "lora": 1.5},
    ]
    times = [
        Times({name: [x, x, 90.0] for name, x in group.items()}, {name: 100 * x for name, x in group.items()})
        for group in groups
    ]
    return training_speed.compute_figures(times, PARTS_S, SETTINGS)


def test_figures_by_hand(figures):
    assert figures["speedup"] == {
        "lora_over_full": 1.5,
        "optimized_bf16_over_base_fp32": 4.0,
        "optimized_bf16_over_base_bf16_compiled": 2.5,
        "optimized_fp32_over_base_fp32": 2.0,  # in the second group
        "optimized_bf16_eager_over_base_fp32": 2.4,
        "without_amx_optimized_over_base_fp32": 2.0,
    }
    assert (figures["step_s"]["base_fp32"], figures["peak_mib"]["base_fp32"]) == (7.0, 800.0)
    assert figures["tokens_per_s"]["base_fp32"] == pytest.approx(TOKENS / 7)
    # a block of 2 C² (queries, output), 2 C²/4 (keys, values) and 3 * 64 C (MLP); the head's 64 C
    weights = 2 * (2.5 * 32 * 32 + 3 * 64 * 32) + 64 * 32
    flops = TOKENS * (6 * weights + 12 * 2 * 16 * 32)
    assert figures["step_gflop"]["optimized"] == pytest.approx(flops / 1e9)
    assert figures["product_gflops"] == {"bf16": 2 * 4096**3 * 256 / 1e9, "fp32": 2 * 4096**3 * 64 / 1e9}
    assert figures["utilisation"]["optimized_bf16"] == pytest.approx(flops / 2.0 / (2 * 4096**3 * 256))
    assert (figures["parts_ms"]["mlp"], figures["head_over_products"]) == (3000.0, 1.5)
    # keys and values in fp32: 2 x layers x heads x positions x width of a head; four times fewer heads in optimized
    assert (
        figures["cache_mib"]["base"] * 2**20 == 2 * 2 * 4 * 16 * 8 * 4 == 4 * figures["cache_mib"]["optimized"] * 2**20
    )


@pytest.mark.parametrize(
    ("dtype", "compile", "speedups"),
    [
        ("float32", "auto", {"optimized_fp32_over_base_fp32", "lora_over_full"}),
        ("bfloat16", "off", SPEEDUPS),
        ("bfloat16", "auto", SPEEDUPS | {"optimized_bf16_over_base_bf16_compiled"}),
    ],
)
def test_which_variants_are_timed(dtype, compile, speedups, monkeypatch):
    built = []

    def note_variant(name, variant, settings):
        built.append((name, variant.compile))
        return {name: lambda: None}

    monkeypatch.setattr(training_speed, "missing_for_compile", lambda device: None)
    monkeypatch.setattr(training_speed, "PRODUCT_SIZE", 64)
    monkeypatch.setattr(training_speed, "build_training_step", note_variant)
    monkeypatch.setattr(training_speed, "time_in_turns", time_nothing)
    figures = training_speed.measure_training(replace(SETTINGS, dtype=dtype, compile=compile))
    assert set(figures["speedup"]) == speedups
    compiled = (
        {"base_bf16_compiled", "optimized_bf16", "full", "lora"} if (dtype, compile) == ("bfloat16", "auto") else set()
    )
    assert {name for name, compiles in built if compiles} == compiled


def test_the_stage_writes_metrics_for_dvc_alone(figures, tmp_path, monkeypatch):
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training_speed, "measure_training", lambda settings: figures)
    monkeypatch.setattr(decoding, "measure_decoding", lambda settings: {"tokens_per_s": 600.0})
    monkeypatch.delenv("DVC_STAGE", raising=False)
    for words in ([], ["--out", "x.json"]):
        monkeypatch.setattr(sys, "argv", ["benchmark.py", *words])
        benchmark.main()
        assert not Path("metrics").exists()
    assert json.loads(Path("x.json").read_text())["speedup"] == figures["speedup"]
    monkeypatch.setenv("DVC_STAGE", "benchmark")
    monkeypatch.setattr(sys, "argv", ["benchmark.py"])
    benchmark.main()
    assert Path("metrics/benchmark.json").read_bytes() == Path("x.json").read_bytes()
    steps = pd.read_csv("metrics/benchmark-steps.csv", index_col="variant").to_dict()
    assert steps["tokens_per_s"] == pytest.approx(figures["tokens_per_s"], rel=1e-5)
    parts = pd.read_csv("metrics/benchmark-parts.csv", index_col="part")["ms"]
    assert parts.to_dict() == pytest.approx(figures["parts_ms"], rel=1e-5)


@pytest.mark.slow
def test_the_stage(tmp_path, monkeypatch, capsys):
    section = dataclasses.asdict(replace(SETTINGS, num_iters=1, dtype="bfloat16"))
    (tmp_path / "params.yaml").write_text(json.dumps({"benchmark": section}))  # JSON is YAML
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training_speed, "PRODUCT_SIZE", 64)
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--compile", "off", "--out", "x.json"])
    benchmark.main()
    speedup = json.loads(Path("x.json").read_text())["speedup"]
    assert set(speedup) == SPEEDUPS
    ratio = speedup["optimized_fp32_over_base_fp32"]
    assert re.search(rf"^optimized_fp32_over_base_fp32 +{ratio:.2f}$", capsys.readouterr().out, re.MULTILINE)
