"""How the cost of a training step grows with the model's shape, the batch and the threads."""

from dataclasses import replace
from functools import partial

from nanogpt.benchmark.settings import BenchmarkSettings
from nanogpt.benchmark.timing import time_in_turns
from nanogpt.benchmark.variants import Variant, build_training_step
from nanogpt.model.build import model_flops
from nanogpt.runtime.cores import usable_cores

HEAD_DIM = 64
VALUES = {
    "n_embd": (128, 256, 320, 512, 768, 1024),
    "block_size": (128, 256, 512, 1024, 2048),
    "batch_size": (1, 2, 4, 8, 16, 32),
    "vocab_size": (256, 2048, 8192, 32768, 50304),
    "threads": (1, 2, 4, 8, 16, 32),
}


def measure_growth(settings: BenchmarkSettings) -> dict[str, dict[str, dict[str, float]]]:
    """Measure uncompiled steps of the optimized model in `dtype`, one setting varied at a time: by key and value.

    Heads stay 64 wide as `n_embd` grows, and a step's tokens the same as `block_size` grows. Threads end at the cores.
    """
    return {
        key: {str(value): _measure(changed) for value in values if (changed := vary(settings, key, value))}
        for key, values in VALUES.items()
    }


def vary(settings: BenchmarkSettings, key: str, value: int) -> BenchmarkSettings | None:
    """Settings with another value of `key`; None where this machine or the number of tokens a step do not allow it."""
    changed = {key: value}
    if key == "n_embd":
        changed |= {"n_head": value // HEAD_DIM, "n_kv_head": 1}
    if key == "block_size":
        changed["batch_size"], rest = divmod(settings.tokens, value)
        if rest:
            return None
    return None if key == "threads" and value > usable_cores() else replace(settings, **changed)


def _measure(settings: BenchmarkSettings) -> dict[str, float]:
    entry = partial(build_training_step, "step", Variant("optimized", settings.dtype), settings)
    times = time_in_turns({"step": entry}, settings.num_iters)
    seconds = times.medians["step"]
    return {
        "step_ms": 1e3 * seconds,
        "tokens_per_s": settings.tokens / seconds,
        "gflops": model_flops(settings.config("optimized"), settings.tokens) / seconds / 1e9,
        "peak_mib": times.peak_mib["step"],
    }
