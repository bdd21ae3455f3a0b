"""Training speed: this project's step against plain torch's, and how much of the machine it uses."""

from functools import partial
from pathlib import Path

import pandas as pd

from nanogpt.benchmark import step_parts
from nanogpt.benchmark.settings import BenchmarkSettings
from nanogpt.benchmark.timing import Times, time_in_turns
from nanogpt.benchmark.variants import CPU, DTYPES, Variant, training
from nanogpt.hardware.compilation import can_compile
from nanogpt.hardware.device import choose_dtype
from nanogpt.model.build import build_model, count_parameters, model_flops
from nanogpt.model.kv_cache import KVCache
from nanogpt.runtime import atomic

ARCHITECTURES = ("base", "optimized")
PRODUCT = 4096  # size of the square product that utilisation is measured against
HIDE_AMX = "AVX512_CORE_BF16"
FASTER = {  # by yardstick
    "base_fp32": ("optimized_fp32", "optimized_bf16", "optimized_bf16_eager", "without_amx_optimized"),
    "base_bf16_compiled": ("optimized_bf16",),
    "full": ("lora",),
}


def benchmark(settings: BenchmarkSettings) -> dict[str, dict[str, float] | float]:
    """What the committed figures consist of, see `figures`: a few races, each against its own yardstick.

    bfloat16 is left out where `dtype` says float32, or says auto and this CPU is not faster in it; compiled
    variants where `compile` is off or there is no compiler.
    """
    half = choose_dtype(settings.dtype, CPU) == choose_dtype("bfloat16", CPU)
    short = "bf16" if half else "fp32"
    dtype = DTYPES[short]
    compiles = settings.compile == "auto" and can_compile(CPU)
    base = {"base_fp32": Variant("base", "float32", plain=True)}
    full, name = Variant("optimized", dtype, compile=half and compiles), f"optimized_{short}"
    races = [base | {"optimized_fp32": Variant("optimized", "float32")}]
    if half:
        races[0] |= {"optimized_bf16_eager": Variant("optimized", dtype)}
        plain = {"base_bf16_compiled": Variant("base", dtype, compile=True, plain=True)} if compiles else {}
        hidden = {"without_amx_optimized": Variant("optimized", "auto", isa=HIDE_AMX)}
        races.insert(0, base | plain | {name: full} | hidden)
    races += [{"full": full, "lora": Variant("optimized", full.dtype, full.compile, adapter=True)}]
    times = [_race(variants, settings) for variants in races]
    others = {
        "parts": partial(step_parts.parts, "", "optimized", dtype, settings),
        "products": partial(step_parts.products, "products", dtype, settings),
        "matrix": partial(step_parts.matrix, {"fp32": "float32"} | {short: dtype}, settings, PRODUCT),
    }
    return figures(times, time_in_turns(others, settings.num_iters), settings)


def variants(settings: BenchmarkSettings) -> dict[str, dict[str, float] | float]:
    """Both architectures in both dtypes, compiled and not, as this project trains, and the plain yardstick of each."""
    chosen = {
        f"{arch}_{short}{'_compiled' * compile}{'_plain' * plain}": Variant(arch, dtype, compile, plain)
        for short, dtype in DTYPES.items()
        for compile in ([False, True] if can_compile(CPU) and settings.compile == "auto" else [False])
        for arch, plain in (("base", True), ("base", False), ("optimized", False))
    }
    names = list(chosen)
    times = [
        _race({name: chosen[name] for name in names[start : start + 3]}, settings) for start in range(0, len(names), 3)
    ]
    return _steps(times, settings)


def _race(variants: dict[str, Variant], settings: BenchmarkSettings) -> Times:
    entries = {name: partial(training, name, variant, settings) for name, variant in variants.items()}
    return time_in_turns(entries, settings.num_iters)


def figures(times: list[Times], others: Times, settings: BenchmarkSettings) -> dict[str, dict[str, float] | float]:
    """The metrics of some races.

    `speedup`: step time of the second name over that of the first, both from one race. `utilisation`: model FLOPs
    a second over the rate of a 4096³ product in the same dtype (`product_gflops`). `parts_ms`: the optimized model
    in the fastest dtype, uncompiled. `head_over_products`: head and loss over the bare time of its three products.
    """
    speedup = {
        f"{name}_over_{yardstick}": medians[yardstick] / medians[name]
        for medians in (race_times.medians for race_times in times)
        for yardstick, names in FASTER.items()
        for name in names
        if {yardstick, name} <= medians.keys()
    }
    steps, seconds = _steps(times, settings), others.medians
    rates = {short: 2 * PRODUCT**3 / seconds[short] for short in ("bf16", "fp32") if short in seconds}
    flops = model_flops(settings.config("optimized"), settings.tokens)
    parts_ms = {name: 1e3 * seconds[name] for name in ("embedding", "attention", "mlp", "head_loss", "optimizer")}
    return {
        "speedup": dict(sorted(speedup.items())),
        "utilisation": {
            name: flops / steps["step_s"][name] / rates[name.removeprefix("optimized_")]
            for name in ("optimized_bf16", "optimized_fp32")
            if name in steps["step_s"]
        },
        "head_over_products": seconds["head_loss"] / seconds["products"],
        "optimizer_ms": parts_ms["optimizer"],
        "parts_ms": parts_ms,
        "product_gflops": {name: rate / 1e9 for name, rate in rates.items()},
    } | steps  # fmt: skip


def _steps(times: list[Times], settings: BenchmarkSettings) -> dict[str, dict[str, float]]:
    """Time, speed and memory of each variant's step, the mean of its medians where it ran in several races."""
    step_s, peaks = {}, {}
    for race_times in times:
        for name, seconds in race_times.medians.items():
            step_s.setdefault(name, []).append(seconds)
            peaks.setdefault(name, []).append(race_times.peak_mib[name])
    step_s = {name: sum(seconds) / len(seconds) for name, seconds in step_s.items()}
    configs = {arch: settings.config(arch) for arch in ARCHITECTURES}
    return {
        "step_s": step_s,
        "tokens_per_s": {name: settings.tokens / seconds for name, seconds in step_s.items()},
        "peak_mib": {name: max(peak) for name, peak in peaks.items()},
        "step_gflop": {arch: model_flops(config, settings.tokens) / 1e9 for arch, config in configs.items()},
        "parameters": {arch: count_parameters(build_model(config)) for arch, config in configs.items()},
        "cache_mib": {arch: KVCache(config, batch_size=1).nbytes / 2**20 for arch, config in configs.items()},
    }


def table(figures: dict) -> str:
    """The figures as aligned lines for a terminal."""
    lines = [f"{'variant':<24}{'step ms':>9}{'tokens/s':>11}{'peak MiB':>11}"]
    for name, seconds in figures["step_s"].items():
        lines.append(
            f"{name:<24}{1e3 * seconds:>9.0f}{figures['tokens_per_s'][name]:>11,.0f}{figures['peak_mib'][name]:>11,.0f}"
        )
    lines += [f"{name.replace('_', ' '):<52}{ratio:.2f}" for name, ratio in figures.get("speedup", {}).items()]
    for name, share in figures.get("utilisation", {}).items():
        rate = figures["product_gflops"][name.removeprefix("optimized_")]
        lines.append(f"{f'utilisation of {name}, of {rate:,.0f} GFLOP/s':<52}{share:.2f}")
    if "parts_ms" in figures:
        lines.append("parts: " + ", ".join(f"{part} {ms:.1f} ms" for part, ms in figures["parts_ms"].items()))
        lines.append(f"{'head and loss over its three products':<52}{figures['head_over_products']:.2f}")
    for arch, count in figures["parameters"].items():
        lines.append(f"{arch}: {count:,} parameters, key/value cache {figures['cache_mib'][arch]:.2f} MiB a sequence")
    return "\n".join(lines)


def save_charts(figures: dict, folder: Path | str) -> None:
    """Write what the bar charts show: tokens a second and memory of each variant, and parts of a step."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    steps = pd.DataFrame({key: figures[key] for key in ("tokens_per_s", "peak_mib")}).rename_axis("variant")
    parts_ms = pd.Series(figures["parts_ms"], name="ms").rename_axis("part")
    for name, chart in (("steps", steps), ("parts", parts_ms)):
        atomic.write_text(Path(folder) / f"benchmark-{name}.csv", chart.to_csv(float_format="%.6g"))
