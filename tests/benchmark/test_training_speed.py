import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from benchmark_shapes import SETTINGS, time_nothing
from imports import ROOT

from nanogpt.benchmark import training_speed
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
        Times(
            {name: [value] * 3 for name, value in group.items()}, {name: 100 * value for name, value in group.items()}
        )
        for group in groups
    ]
    return training_speed.compute_figures(times, PARTS_S, SETTINGS)


def test_speedups_are_those_of_one_group(figures):
    assert figures["speedup"] == {
        "lora_over_full": 1.5,
        "optimized_bf16_over_base_fp32": 4.0,
        "optimized_bf16_over_base_bf16_compiled": 2.5,
        "optimized_fp32_over_base_fp32": 2.0,
        "optimized_bf16_eager_over_base_fp32": 2.4,
        "without_amx_optimized_over_base_fp32": 2.0,
    }


def test_a_variant_of_two_groups(figures):
    assert figures["step_s"]["base_fp32"] == 7.0
    assert figures["tokens_per_s"]["base_fp32"] == pytest.approx(TOKENS / 7)
    assert figures["peak_mib"]["base_fp32"] == 800.0


def test_utilisation_by_hand(figures):
    """A block of 2 C² (queries, output), 2 C²/4 (keys, values) and 3 * 64 C (MLP); the head's 64 C."""
    weights = 2 * (2.5 * 32 * 32 + 3 * 64 * 32) + 64 * 32
    flops = TOKENS * (6 * weights + 12 * 2 * 16 * 32)
    assert figures["step_gflop"]["optimized"] == pytest.approx(flops / 1e9)
    assert figures["product_gflops"] == {"bf16": 2 * 4096**3 * 256 / 1e9, "fp32": 2 * 4096**3 * 64 / 1e9}
    assert figures["utilisation"] == {
        "optimized_bf16": pytest.approx(flops / 2.0 / (2 * 4096**3 * 256)),
        "optimized_fp32": pytest.approx(flops / 3.0 / (2 * 4096**3 * 64)),
    }


def test_parts_and_products_by_hand(figures):
    expected = {"embedding": 1000.0, "attention": 2000.0, "mlp": 3000.0, "head_loss": 6000.0, "optimizer": 5000.0}
    assert figures["parts_ms"] == expected
    assert figures["head_over_products"] == 1.5


def test_the_cache_shrinks_by_the_groups(figures):
    """Keys and values in fp32: 2 x layers x heads x positions x width of a head, four times fewer heads."""
    assert figures["cache_mib"]["base"] * 2**20 == 2 * 2 * 4 * 16 * 8 * 4
    assert figures["cache_mib"]["base"] == 4 * figures["cache_mib"]["optimized"]


def test_the_text_shows_the_figures(figures):
    rows = {line.split()[0]: line.split()[1:] for line in training_speed.format_figures(figures).splitlines()}
    assert rows["base_fp32"] == ["7,000", "7", "800"] and rows["lora"][-1] == "1.50"
    assert rows["optimized:"][0] == f"{figures['parameters']['optimized']:,}"


def test_the_charts_show_the_figures(figures, tmp_path):
    training_speed.save_charts(figures, tmp_path / "metrics")
    check_charts(figures, tmp_path / "metrics")


def check_charts(figures: dict, folder: Path) -> None:
    def read_column(chart: str, name: str, value: str) -> dict[str, float]:
        with (folder / f"benchmark-{chart}.csv").open(newline="") as file:
            return {row[name]: float(row[value]) for row in csv.DictReader(file)}

    for key in ("peak_mib", "tokens_per_s"):
        assert read_column("steps", "variant", key) == pytest.approx(figures[key], rel=1e-5)
    assert read_column("parts", "part", "ms") == pytest.approx(figures["parts_ms"], rel=1e-5)


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

    monkeypatch.setattr(training_speed, "can_compile", lambda device: True)
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
    check_charts(figures, Path("metrics"))


@pytest.mark.slow
def test_the_stage(tmp_path):
    section = dataclasses.asdict(replace(SETTINGS, num_iters=1, dtype="bfloat16"))
    (tmp_path / "params.yaml").write_text(json.dumps({"benchmark": section}))  # JSON is YAML
    command = [sys.executable, "-m", "stages.benchmark", "--compile", "off", "--out", "x.json"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    speedup = json.loads((tmp_path / "x.json").read_text())["speedup"]
    assert set(speedup) == SPEEDUPS
    assert f"optimized fp32 over base fp32{speedup['optimized_fp32_over_base_fp32']:27.2f}" in done.stdout
