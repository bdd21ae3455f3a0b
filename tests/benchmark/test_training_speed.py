import csv
import dataclasses
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import needs
import pytest
import torch
import torch.nn.functional as F
from benchmark_shapes import SETTINGS
from imports import ROOT
from layers_checks import check_improvements
from step_parts_checks import PARTS, check_parts
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from untimed import untimed

from nanogpt.benchmark import training_speed, variants
from nanogpt.benchmark.timing import Times
from nanogpt.benchmark.variants import Variant
from nanogpt.model.build import build_model, model_flops
from stages import benchmark

TOKENS = 3 * 16
SPEEDUPS = {
    "optimized_bf16_over_base_fp32", "optimized_bf16_eager_over_base_fp32", "optimized_fp32_over_base_fp32",
    "without_amx_optimized_over_base_fp32", "lora_over_full",
}  # fmt: skip
OF_COMPILED = {"optimized_bf16_over_base_bf16_compiled"}
STEPS = {
    "base_fp32",
    "optimized_bf16",
    "optimized_fp32",
    "optimized_bf16_eager",
    "without_amx_optimized",
    "full",
    "lora",
}
OTHERS = Times(
    {"embedding": [1.0], "attention": [2.0], "mlp": [3.0], "head_loss": [6.0], "optimizer": [5.0]}
    | {"products": [4.0], "bf16": [1 / 256], "fp32": [1 / 64]},
    {"parts": 1.0, "products": 2.0, "matrix": 3.0},
)


def times(seconds: dict[str, float]) -> Times:
    """A race in which each step took that long, and its process a hundred times as many MiB."""
    return Times({name: [value] * 3 for name, value in seconds.items()}, {n: 100 * s for n, s in seconds.items()})


def check_steps(figures: dict, names: set[str]) -> None:
    """Relations between the figures of steps that hold whatever the clock says."""
    for group in ("step_s", "tokens_per_s", "peak_mib"):
        assert set(figures[group]) == names
        assert all(type(number) is float and 0 < number < math.inf for number in figures[group].values())
    for name in names:
        assert figures["tokens_per_s"][name] * figures["step_s"][name] == pytest.approx(TOKENS, rel=1e-4)


def check(figures: dict, names: set[str], speedups: set[str]) -> None:
    """Relations between all figures that hold whatever the clock says; to the six digits of a metrics file."""
    check_steps(figures, names)
    assert set(figures["speedup"]) == speedups
    assert all(type(ratio) is float and 0 < ratio < math.inf for ratio in figures["speedup"].values())
    seconds = figures["step_s"]  # `full` and `lora` run in one race only, so that their ratio is known
    assert figures["speedup"]["lora_over_full"] == pytest.approx(seconds["full"] / seconds["lora"], rel=1e-4)
    assert list(figures["parts_ms"]) == PARTS
    assert all(0 < ms < math.inf for ms in figures["parts_ms"].values())
    assert figures["optimizer_ms"] == figures["parts_ms"]["optimizer"]
    assert 0 < figures["head_over_products"] < math.inf
    flops = model_flops(SETTINGS.config("optimized"), TOKENS)
    assert figures["utilisation"] == {
        f"optimized_{dtype}": pytest.approx(flops / seconds[f"optimized_{dtype}"] / rate / 1e9, rel=1e-4)
        for dtype, rate in figures["product_gflops"].items()
    }


@pytest.fixture(scope="module")
def figures() -> dict:
    """Of races by hand: `base_fp32` took 8 s in the first and 6 s in the second."""
    races = [
        {"base_fp32": 8.0, "base_bf16_compiled": 5.0, "optimized_bf16": 2.0, "without_amx_optimized": 4.0},
        {"base_fp32": 6.0, "optimized_fp32": 3.0, "optimized_bf16_eager": 2.5},
        {"full": 2.25, "lora": 1.5},
    ]
    return training_speed.figures([times(seconds) for seconds in races], OTHERS, SETTINGS)


def test_figures_hang_together(figures):
    check(figures, STEPS | {"base_bf16_compiled"}, SPEEDUPS | OF_COMPILED)


def test_speedups_are_those_of_one_race(figures):
    assert figures["speedup"] == {
        "lora_over_full": 1.5,
        "optimized_bf16_over_base_fp32": 4.0,
        "optimized_bf16_over_base_bf16_compiled": 2.5,
        "optimized_fp32_over_base_fp32": 2.0,
        "optimized_bf16_eager_over_base_fp32": 2.4,
        "without_amx_optimized_over_base_fp32": 2.0,
    }
    assert list(figures["speedup"]) == sorted(figures["speedup"])


def test_what_ran_in_two_races_is_between_them(figures):
    assert figures["step_s"]["base_fp32"] == 7.0
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
    assert figures["optimizer_ms"] == 5000.0
    assert figures["head_over_products"] == 1.5


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


def test_the_table_shows_the_figures(figures):
    lines = training_speed.table(figures).splitlines()
    assert lines[0].split() == ["variant", "step", "ms", "tokens/s", "peak", "MiB"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:9]}
    assert rows["base_fp32"] == ["7000", "7", "800"] and rows["lora"] == ["1500", "32", "150"]
    assert set(rows) == set(figures["step_s"]) and len({len(line) for line in lines[:9]}) == 1
    text = "\n".join(lines)
    for name, ratio in figures["speedup"].items():
        assert any(line.startswith(name.replace("_", " ")) and line.endswith(f" {ratio:.2f}") for line in lines)
    assert f"utilisation of optimized_bf16, of {figures['product_gflops']['bf16']:,.0f} GFLOP/s" in text
    assert "mlp 3000.0 ms, head_loss 6000.0 ms" in text
    assert lines[-3].split() == ["head", "and", "loss", "over", "its", "three", "products", "1.50"]
    assert lines[-2].startswith(f"base: {figures['parameters']['base']:,} parameters, key/value cache 0.01 MiB")


def test_the_table_does_without_what_was_not_measured(figures):
    some = {key: figures[key] for key in ("step_s", "tokens_per_s", "peak_mib", "parameters", "cache_mib")}
    lines = training_speed.table(some).splitlines()
    assert lines == [*training_speed.table(figures).splitlines()[:9], *training_speed.table(figures).splitlines()[-2:]]


def test_the_charts_show_the_figures(figures, tmp_path):
    training_speed.save_charts(figures, tmp_path / "metrics")
    check_charts(figures, tmp_path / "metrics")


def check_charts(figures: dict, folder: Path) -> None:
    def rows(name: str) -> list[dict[str, str]]:
        with (folder / name).open(newline="") as file:
            return list(csv.DictReader(file))

    assert {row["variant"]: float(row["peak_mib"]) for row in rows("benchmark-steps.csv")} == pytest.approx(
        figures["peak_mib"], rel=1e-5
    )
    assert {row["variant"]: float(row["tokens_per_s"]) for row in rows("benchmark-steps.csv")} == pytest.approx(
        figures["tokens_per_s"], rel=1e-5
    )
    assert {row["part"]: float(row["ms"]) for row in rows("benchmark-parts.csv")} == pytest.approx(
        figures["parts_ms"], rel=1e-5
    )


@pytest.mark.parametrize(
    ("dtype", "compile", "names", "speedups"),
    [
        ("float32", "off", {"base_fp32", "optimized_fp32", "full", "lora"},
         {"optimized_fp32_over_base_fp32", "lora_over_full"}),
        ("float32", "auto", {"base_fp32", "optimized_fp32", "full", "lora"},
         {"optimized_fp32_over_base_fp32", "lora_over_full"}),
        ("bfloat16", "off", STEPS, SPEEDUPS),
        ("bfloat16", "auto", STEPS | {"base_bf16_compiled"}, SPEEDUPS | OF_COMPILED),
    ],
)  # fmt: skip
def test_which_races_are_run(dtype, compile, names, speedups, monkeypatch):
    monkeypatch.setattr(training_speed, "can_compile", lambda device: True)
    monkeypatch.setattr(training_speed, "PRODUCT", 64)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "ALL")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "set, so that it is left alone")
    monkeypatch.setattr(training_speed, "race", untimed)
    check(training_speed.benchmark(replace(SETTINGS, dtype=dtype, compile=compile)), names, speedups)


@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
@pytest.mark.parametrize("arch", ["base", "optimized"])
def test_model_flops_are_those_that_torch_counts(arch, n_kv_head):
    config = replace(SETTINGS, n_kv_head=n_kv_head).config(arch)
    model, ids = build_model(config), torch.randint(64, (3, 16))
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
    assert model_flops(config, TOKENS) == pytest.approx(counter.get_total_flops(), rel=1e-3)


def both(arch: str) -> tuple[list[nn.Module], tuple[torch.Tensor, torch.Tensor]]:
    """Two models alike, and a batch."""
    torch.manual_seed(0)
    model, twin = (build_model(SETTINGS.config(arch)) for _ in range(2))
    twin.load_state_dict(model.state_dict())
    return [model, twin], tuple(torch.randint(64, (2, 3, 16)))


def noted(model: nn.Module) -> dict[str, torch.Tensor]:
    """Gradients by parameter as backward passes leave them, before they are clipped."""
    grads = {}
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda p, name=name: grads.update({name: p.grad.clone()}))
    return grads


@pytest.mark.parametrize("arch", ["base", "optimized"])
def test_the_yardstick_learns_the_same(arch):
    """Plain torch's step and this project's: the loss and all gradients are equal on the same batch."""
    (model, twin), batch = both(arch)
    theirs, ours = noted(model), noted(twin)
    expected = F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())
    variants._plain(model, Variant(arch, "float32", plain=True), SETTINGS, *batch)()
    loss = variants._ours(twin, Variant(arch, "float32"), SETTINGS, batch)()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert set(theirs) == set(ours) == {name for name, _ in model.named_parameters()}
    for name, grad in theirs.items():
        torch.testing.assert_close(ours[name], grad, atol=1e-6, rtol=1e-4)


def test_the_yardstick_takes_adamws_step():
    """A first step is as long as the learning rate whatever the betas; the two differ in how weights decay."""
    (model, twin), batch = both("optimized")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    variants._plain(model, Variant("optimized", "float32", plain=True), SETTINGS, *batch)()
    variants._ours(twin, Variant("optimized", "float32"), SETTINGS, batch)()
    after = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        plain = parameter - (1 - 1e-4 * 0.01) * before[name]
        ours = after[name] - (1 - 1e-4 * (0.1 if parameter.dim() == 2 else 0.0)) * before[name]
        assert 0.9e-4 < plain.abs().max() < 1.1e-4
        torch.testing.assert_close(plain, ours, atol=2e-6, rtol=0)


def flushes() -> bool:
    """Whether this process takes numbers next to 0 for 0."""
    return (torch.tensor([1e-310], dtype=torch.float64) * 0.5).item() == 0


def test_the_yardstick_is_not_tuned():
    torch.set_flush_denormal(False)
    plain = variants.training("plain", Variant("base", "float32", plain=True), SETTINGS)
    plain["plain"]()
    assert torch.backends.mkldnn.matmul.fp32_precision == "none" and not flushes()
    ours = variants.training("ours", Variant("base", "float32"), SETTINGS)
    ours["ours"]()
    assert flushes()
    if training_speed.measured_rates().onednn_pays:
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"


def test_variants_start_alike():
    losses = [variants.training("x", Variant("optimized", "float32"), SETTINGS)["x"]() for _ in range(2)]
    assert losses[0] == losses[1] and abs(losses[0] - math.log(64)) < 1
    step = variants.training("x", Variant("optimized", "float32"), SETTINGS)["x"]
    assert [step() for _ in range(5)][-1] < losses[0]


def test_an_adapter_alone_learns():
    (model, _), batch = both("optimized")
    frozen = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    step = variants._ours(model, Variant("optimized", "float32", adapter=True), SETTINGS, batch)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(learning) == 2 * 2 * 7 and all(".lora_A." in name or ".lora_B." in name for name in learning)
    assert not model.lm_head.weight.requires_grad
    assert all(p.numel() == 8 * max(p.shape) for n, p in model.named_parameters() if n in learning)  # of rank 8
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    losses = [step() for _ in range(3)]
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, start[name])}
    assert changed == learning and losses[-1] < losses[0]
    now = {name.replace(".base_layer", ""): parameter for name, parameter in model.named_parameters()}
    assert all(torch.equal(now[name], weight) for name, weight in frozen.items())


ISA = """
from benchmark_shapes import SETTINGS
from nanogpt.hardware.cores import instruction_set
from nanogpt.benchmark.variants import Variant
from nanogpt.benchmark.variants import training
training("x", Variant("optimized", "bfloat16", isa="AVX2"), SETTINGS)["x"]()
print(instruction_set())
"""


def test_instructions_can_be_hidden(tmp_path):
    """Also from oneDNN, which says what its kernels use: hiding comes before its first product."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "DVC_ROOT": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", ISA], env=env | {"ONEDNN_VERBOSE": "1"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] in ("AVX2", "plain", "NEON", "SVE", "SVE256")
    assert "avx512" not in done.stdout.lower() and "amx" not in done.stdout.lower()


def write_params(folder: Path, **changed) -> None:
    """A params.yaml of one section (JSON is YAML)."""
    section = dataclasses.asdict(replace(SETTINGS, num_iters=1, **changed))
    (folder / "params.yaml").write_text(json.dumps({"benchmark": section}))


@pytest.mark.slow
def test_the_stage_by_default(tmp_path):
    write_params(tmp_path, dtype="bfloat16")
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "stages.benchmark", "--compile", "off"],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    figures = json.loads((tmp_path / "metrics" / "benchmark.json").read_text())
    check(figures, STEPS, SPEEDUPS)
    check_charts(figures, tmp_path / "metrics")
    assert f"optimized bf16 over base fp32{figures['speedup']['optimized_bf16_over_base_fp32']:27.2f}" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("what", "check"), [("parts", check_parts), ("improvements", check_improvements)])
def test_the_stage_measures_parts(what, check, tmp_path, monkeypatch):
    write_params(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--what", what, "--out", "x.json"])
    benchmark.main()
    check(json.loads((tmp_path / "x.json").read_text()))
    assert not (tmp_path / "metrics").exists()


ALL = """
import sys
from untimed import untimed
from nanogpt.benchmark import ablation, layers, step_parts, training_speed
from stages import benchmark
for module in (ablation, layers, step_parts, training_speed):
    module.race = untimed
sys.argv = ["benchmark.py", "--what", "all", "--compile", "off", "--out", "all.json"]
benchmark.main()
"""


@pytest.mark.slow
def test_the_stage_measures_all(tmp_path):
    """In a process of its own, as its steps are made there; to time them all takes minutes."""
    write_params(tmp_path)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    subprocess.run([sys.executable, "-c", ALL], cwd=tmp_path, env=env, check=True)
    found = json.loads((tmp_path / "all.json").read_text())
    assert set(found) == set(benchmark.WHAT) - {"growth", "prepare", "all"}
    names = {"base_fp32", "optimized_fp32", "full", "lora"}
    check(found["training"], names, {"optimized_fp32_over_base_fp32", "lora_over_full"})
    kinds = {f"{kind}_{dtype}" for kind in ("base", "optimized") for dtype in ("fp32", "bf16")}
    check_steps(found["variants"], kinds | {"base_fp32_plain", "base_bf16_plain"})
    check_parts(found["parts"])
    check_improvements(found["improvements"])
    assert not (tmp_path / "metrics").exists()


@pytest.mark.slow
@needs.compiler
def test_compiled_variants_run(tmp_path):
    """Both, as `python -m` runs them, and silently: nothing is left for multiprocessing to clean up."""
    code = (
        "from dataclasses import replace\n"
        "from benchmark_shapes import SETTINGS\n"
        "from nanogpt.bench.training import _race\n"
        "from nanogpt.bench.variants import Variant\n"
        "plain, ours = (Variant('optimized', 'bfloat16', compile=True, plain=plain) for plain in (True, False))\n"
        "times = _race({'plain': plain, 'ours': ours}, replace(SETTINGS, n_layer=1))\n"
        "assert set(times.seconds) == {'plain', 'ours'} and min(map(min, times.seconds.values())) > 0\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
