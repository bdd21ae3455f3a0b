"""Training speed: this project's step against plain PyTorch's, and how much of the machine it uses."""

from functools import partial
from pathlib import Path

import pandas as pd

from nanogpt.benchmark import step_parts
from nanogpt.benchmark.settings import BenchmarkSettings
from nanogpt.benchmark.timing import Times, time_in_turns
from nanogpt.benchmark.variants import ADAPTER, CPU, DTYPES, Variant, build_training_step
from nanogpt.hardware.compilation import missing_for_compile
from nanogpt.hardware.device import choose_dtype
from nanogpt.inference.decoder import cache_mib
from nanogpt.model.build import ARCHITECTURES, build_model, count_parameters, model_flops
from nanogpt.runtime import atomic

PRODUCT_SIZE = 4096  # of the square matrices whose product utilisation is measured against
HIDE_AMX = "AVX512_CORE_BF16"
SPEEDUPS = {  # by yardstick
    "base_fp32": ("optimized_fp32", "optimized_bf16", "optimized_bf16_eager", "without_amx_optimized"),
    "base_bf16_compiled": ("optimized_bf16",),
    "full": ("lora",),
}


def measure_training(settings: BenchmarkSettings) -> dict[str, dict[str, float] | float]:
    """Time base against optimized, full training against LoRA, and the parts of a step: see `compute_figures`.

    bfloat16 is left out where `dtype` is float32, or is auto and this CPU is not faster in it; compiled variants
    where `compile` is off or there is no compiler.
    """
    half = choose_dtype(settings.dtype, CPU) == choose_dtype("bfloat16", CPU)
    short = "bf16" if half else "fp32"
    dtype = DTYPES[short]
    compiles = settings.compile == "auto" and not missing_for_compile(CPU)
    base = {"base_fp32": Variant("base", "float32", plain=True)}
    full = Variant("optimized", dtype, compile=half and compiles)
    groups = [base | {"optimized_fp32": Variant("optimized", "float32")}]
    if half:
        groups[0]["optimized_bf16_eager"] = Variant("optimized", dtype)
        plain = {"base_bf16_compiled": Variant("base", dtype, compile=True, plain=True)} if compiles else {}
        without_amx = Variant("optimized", "auto", isa=HIDE_AMX)
        groups.insert(0, base | plain | {"optimized_bf16": full, "without_amx_optimized": without_amx})
    groups.append({"full": full, "lora": Variant("optimized", dtype, full.compile, adapter=ADAPTER)})
    groups_times = [time_variants(variants, settings) for variants in groups]
    parts = {
        "parts": partial(step_parts.build_parts, "", "optimized", dtype, settings),
        "products": partial(step_parts.build_head_products, "products", dtype, settings),
        "square": partial(step_parts.build_square_products, {"fp32": "float32", short: dtype}, settings, PRODUCT_SIZE),
    }
    return compute_figures(groups_times, time_in_turns(parts, settings.num_iters).medians, settings)


def time_variants(variants: dict[str, Variant], settings: BenchmarkSettings) -> Times:
    """Time a step of each variant, in turns."""
    entries = {name: partial(build_training_step, name, variant, settings) for name, variant in variants.items()}
    return time_in_turns(entries, settings.num_iters)


def compute_figures(
    groups_times: list[Times], parts_s: dict[str, float], settings: BenchmarkSettings
) -> dict[str, dict[str, float] | float]:
    """Compute the metrics from the times of each group of variants and the seconds of each part.

    `speedup`: step time of the second name over that of the first, both timed in the same turns. `utilisation`: model
    FLOPs a second over the rate of a 4096 x 4096 x 4096 product in the same dtype (`product_gflops`). `parts_ms`: the
    optimized model in the fastest dtype, uncompiled. `head_over_products`: time of head and loss over that of the three
    matrix products in it.
    """
    speedup = {
        f"{name}_over_{yardstick}": times.medians[yardstick] / times.medians[name]
        for times in groups_times
        for yardstick, names in SPEEDUPS.items()
        for name in names
        if {yardstick, name} <= times.medians.keys()
    }
    steps = summarize_steps(groups_times, settings)
    rates = {short: 2 * PRODUCT_SIZE**3 / parts_s[short] for short in ("bf16", "fp32") if short in parts_s}
    flops = model_flops(settings.config("optimized"), settings.tokens)
    parts_ms = {name: 1e3 * parts_s[name] for name in ("embedding", "attention", "mlp", "head_loss", "optimizer")}
    return {
        "speedup": dict(sorted(speedup.items())),
        "utilisation": {
            f"optimized_{short}": flops / steps["step_s"][f"optimized_{short}"] / rate for short, rate in rates.items()
        },
        "head_over_products": parts_s["head_loss"] / parts_s["products"],
        "optimizer_ms": parts_ms["optimizer"],
        "parts_ms": parts_ms,
        "product_gflops": {short: rate / 1e9 for short, rate in rates.items()},
    } | steps  # fmt: skip


def summarize_steps(groups_times: list[Times], settings: BenchmarkSettings) -> dict[str, dict[str, float]]:
    """Time, speed and memory of each variant's step: the mean median and the greatest peak of its groups."""
    step_s = pd.concat([pd.Series(times.medians) for times in groups_times]).groupby(level=0, sort=False).mean()
    peak_mib = pd.concat([pd.Series(times.peak_mib) for times in groups_times]).groupby(level=0, sort=False).max()
    configs = {arch: settings.config(arch) for arch in ARCHITECTURES}
    return {
        "step_s": step_s.to_dict(),
        "tokens_per_s": (settings.tokens / step_s).to_dict(),
        "peak_mib": peak_mib.to_dict(),
        "step_gflop": {arch: model_flops(config, settings.tokens) / 1e9 for arch, config in configs.items()},
        "parameters": {arch: count_parameters(build_model(config)) for arch, config in configs.items()},
        "cache_mib": {arch: cache_mib(config) for arch, config in configs.items()},
    }


def format_steps(figures: dict) -> str:
    """Format time, speed and memory of each variant as a table for the terminal."""
    steps = pd.DataFrame({key: figures[key] for key in ("step_s", "tokens_per_s", "peak_mib")})
    steps["step_s"] *= 1e3
    steps.columns = ["step ms", "tokens/s", "peak MiB"]
    return steps.to_string(float_format="{:,.0f}".format)


def format_figures(figures: dict) -> str:
    """Format the figures of `measure_training` as tables for the terminal."""
    tables = ("speedup", "utilisation", "product_gflops", "parts_ms", "parameters", "cache_mib")
    texts = [format_table(name, figures[name]) for name in tables]
    return "\n\n".join([format_steps(figures), *texts, f"head_over_products {figures['head_over_products']:.2f}"])


def format_table(name: str, figures: dict[str, float]) -> str:
    """Format figures as lines below their common name."""
    return f"{name}\n{pd.Series(figures).to_string(float_format='{:,.2f}'.format)}"


def save_charts(figures: dict, folder: Path | str) -> None:
    """Write the CSV files of the bar charts: speed and memory of each variant, and the parts of a step."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    steps = pd.DataFrame({key: figures[key] for key in ("tokens_per_s", "peak_mib")}).rename_axis("variant")
    parts_ms = pd.Series(figures["parts_ms"], name="ms").rename_axis("part")
    for name, chart in (("steps", steps), ("parts", parts_ms)):
        atomic.write_text(Path(folder) / f"benchmark-{name}.csv", chart.to_csv(float_format="%.6g"))
