"""How the cost of a training step grows with the model's shape, the batch and the threads."""

from dataclasses import replace
from functools import partial

import pandas as pd

from nanogpt.benchmark.settings import BenchmarkSettings
from nanogpt.benchmark.timing import time_in_turns
from nanogpt.benchmark.variants import Variant, training
from nanogpt.hardware.cores import usable_cores
from nanogpt.model.build import model_flops

HEAD_DIM = 64
VALUES = {
    "n_embd": (128, 256, 320, 512, 768, 1024),
    "block_size": (128, 256, 512, 1024, 2048),
    "batch_size": (1, 2, 4, 8, 16, 32),
    "vocab_size": (256, 2048, 8192, 32768, 50304),
    "threads": (1, 2, 4, 8, 16, 32),
}


def benchmark(settings: BenchmarkSettings) -> dict[str, dict[str, dict[str, float]]]:
    """Step time, speed, memory and rate of the optimized model in `dtype`, uncompiled, one setting varied at a time.

    Heads stay 64 wide as `n_embd` grows, and `block_size` grows at the same number of tokens a step. Threads go up to
    the cores there are.
    """
    return {
        key: {str(value): _point(_varied(settings, key, value)) for value in values if _possible(settings, key, value)}
        for key, values in VALUES.items()
    }


def _varied(settings: BenchmarkSettings, key: str, value: int) -> BenchmarkSettings:
    changed = {key: value}
    if key == "n_embd":
        changed |= {"n_head": value // HEAD_DIM, "n_kv_head": 1}
    if key == "block_size":
        changed["batch_size"] = settings.tokens // value
    return replace(settings, **changed)


def _possible(settings: BenchmarkSettings, key: str, value: int) -> bool:
    if key == "block_size":
        return settings.tokens % value == 0
    return key != "threads" or value <= usable_cores()


def _point(settings: BenchmarkSettings) -> dict[str, float]:
    entry = partial(training, "step", Variant("optimized", settings.dtype), settings)
    times = time_in_turns({"step": entry}, settings.num_iters)
    seconds, flops = times.medians["step"], model_flops(settings.config("optimized"), settings.tokens)
    return {
        "step_ms": 1e3 * seconds,
        "tokens_per_s": settings.tokens / seconds,
        "gflops": flops / seconds / 1e9,
        "peak_mib": times.peak_mib["step"],
    }


def table(figures: dict[str, dict[str, dict[str, float]]]) -> str:
    """The figures as aligned lines for a terminal."""
    return "\n\n".join(f"{key}\n{pd.DataFrame(points).T.round(1).to_string()}" for key, points in figures.items())
