"""Training speed of base against optimized, interleaved in one run so that drift hits all alike."""

import multiprocessing
import statistics
import time
from dataclasses import dataclass
from typing import Literal

import torch

from nanogpt import hardware, optim
from nanogpt.errors import BadSetting
from nanogpt.model import Cache, ModelConfig, build, count_parameters
from nanogpt.train import update


@dataclass(frozen=True)
class BenchmarkSettings:
    """Section `benchmark` of params.yaml: a shape of its own, so that changing `model` leaves it be."""

    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    block_size: int
    vocab_size: int
    batch_size: int
    num_iters: int
    dtype: hardware.Dtype
    threads: int | Literal["auto"]

    def __post_init__(self) -> None:
        for key in ("vocab_size", "batch_size", "num_iters"):
            if getattr(self, key) < 1:
                raise BadSetting(key, getattr(self, key), "must be at least 1", "choose a positive whole number")
        if self.threads != "auto" and self.threads < 1:
            raise BadSetting("threads", self.threads, "must be at least 1", "choose auto or a number of cores")
        self.config("optimized")

    def config(self, arch: Literal["base", "optimized"]) -> ModelConfig:
        """The model of either architecture at the benchmark's shape."""
        return ModelConfig(
            arch=arch, n_layer=self.n_layer, n_head=self.n_head, n_kv_head=self.n_kv_head, n_embd=self.n_embd,
            block_size=self.block_size, dropout=0.0, tie_embeddings=False, vocab_size=self.vocab_size,
        )  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """One thing to time: an architecture in a dtype of matrix products."""

    arch: Literal["base", "optimized"]
    dtype: torch.dtype

    @property
    def name(self) -> str:
        """As in the keys of the metrics: `optimized_bf16`."""
        return f"{self.arch}_{'bf16' if self.dtype == torch.bfloat16 else 'fp32'}"


class _Trainer:
    """A model with its optimizer and one batch of random tokens, ready to step."""

    def __init__(self, variant: Variant, settings: BenchmarkSettings):
        torch.manual_seed(0)
        self.dtype = variant.dtype
        self.model = build(settings.config(variant.arch))
        self.optimizer = optim.adamw(self.model, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
        tokens = torch.randint(settings.vocab_size, (settings.batch_size, settings.block_size + 1))
        self.batch = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def step(self) -> float:
        """Train one step; returns its seconds."""
        start = time.perf_counter()
        update(self.model, self.optimizer, [self.batch], 1.0, torch.device("cpu"), self.dtype)
        return time.perf_counter() - start


def benchmark(settings: BenchmarkSettings) -> dict[str, dict[str, float]]:
    """Step time (median), tokens per second, peak memory, parameters and cache size of each variant.

    The bfloat16 variant is left out where `dtype` says float32, or says auto and this CPU is not
    faster in bfloat16. Ratios in `speedup` are base fp32's step time over the variant's.
    """
    hardware.threads(settings.threads)
    variants = [Variant("base", torch.float32), Variant("optimized", torch.float32)]
    if hardware.dtype(settings.dtype, torch.device("cpu")) == torch.bfloat16:
        variants.append(Variant("optimized", torch.bfloat16))
    peaks = {v.name: _peak_of_fresh_process(v, settings) for v in variants}
    steps = _interleaved(variants, settings)
    tokens = settings.batch_size * settings.block_size
    yardstick, *others = (v.name for v in variants)
    configs = {arch: settings.config(arch) for arch in ("base", "optimized")}
    return {
        "speedup": {f"{name}_over_{yardstick}": steps[yardstick] / steps[name] for name in others},
        "step_s": steps,
        "tokens_per_s": {name: tokens / seconds for name, seconds in steps.items()},
        "peak_mib": peaks,
        "parameters": {arch: count_parameters(build(config)) for arch, config in configs.items()},
        "cache_mib": {arch: Cache(config, batch_size=1).nbytes / 2**20 for arch, config in configs.items()},
    }


def _interleaved(variants: list[Variant], settings: BenchmarkSettings) -> dict[str, float]:
    """Median seconds of a step of each variant, stepping in turn: A B C A B C ..."""
    trainers = {v.name: _Trainer(v, settings) for v in variants}
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for turn in range(settings.num_iters + 1):
        for name, trainer in trainers.items():
            elapsed = trainer.step()
            if turn > 0:  # the first turn touches fresh memory
                seconds[name].append(elapsed)
    return {name: statistics.median(times) for name, times in seconds.items()}


def _peak_of_fresh_process(variant: Variant, settings: BenchmarkSettings) -> float:
    """MiB at the peak of a process that does nothing but train two steps of this variant."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_of_training, (variant, settings))


def _peak_of_training(variant: Variant, settings: BenchmarkSettings) -> float:
    hardware.threads(settings.threads)
    trainer = _Trainer(variant, settings)
    trainer.step()
    trainer.step()
    return hardware.peak_mib()


def table(figures: dict[str, dict[str, float]]) -> str:
    """The figures as aligned lines for a terminal."""
    yardstick = next(iter(figures["step_s"]))
    lines = [f"{'variant':<16}{'step s':>9}{'tokens/s':>11}{'peak MiB':>11}{'speedup':>9}"]
    for name, seconds in figures["step_s"].items():
        speedup = figures["step_s"][yardstick] / seconds
        lines.append(
            f"{name:<16}{seconds:>9.3f}{figures['tokens_per_s'][name]:>11,.0f}"
            f"{figures['peak_mib'][name]:>11,.0f}{speedup:>8.2f}x"
        )
    for arch, count in figures["parameters"].items():
        lines.append(f"{arch}: {count:,} parameters, key/value cache {figures['cache_mib'][arch]:.2f} MiB a sequence")
    return "\n".join(lines)
