"""How much slower a training step of the optimized model is without one of the techniques that make it fast."""

from functools import partial

import torch
import torch.nn.functional as F

from nanogpt.benchmark.settings import BenchmarkSettings
from nanogpt.benchmark.timing import Steps, time_in_turns
from nanogpt.benchmark.variants import CPU, DTYPES, random_batch
from nanogpt.hardware import memory
from nanogpt.hardware.device import Dtype, choose_dtype, set_threads
from nanogpt.hardware.matmul_rates import use_fast_float32
from nanogpt.model import attention
from nanogpt.model.build import build_model
from nanogpt.training.optimizer import build_adamw
from nanogpt.training.step import update

TECHNIQUES = ("head and loss in one", "plain attention", "fused AdamW", "kept memory", "oneDNN in fp32")


def measure_ablation(settings: BenchmarkSettings) -> dict[str, dict[str, float]]:
    """For each dtype and technique, the time of an uncompiled step without it over that of a step with all of them."""
    return {short: {name: _measure(name, dtype, settings) for name in TECHNIQUES} for short, dtype in DTYPES.items()}


def _measure(technique: str, dtype: Dtype, settings: BenchmarkSettings) -> float:
    entries = {name: partial(build_step_without, name, dtype, settings) for name in (technique, "nothing")}
    medians = time_in_turns(entries, settings.num_iters).medians
    return medians[technique] / medians["nothing"]


def build_step_without(technique: str, dtype: Dtype, settings: BenchmarkSettings) -> Steps:
    """Build a step of training with all techniques but one, and set up this process for it."""
    set_threads(settings.threads)
    torch.set_flush_denormal(True)
    if technique != "oneDNN in fp32":
        use_fast_float32()
    if technique != "kept memory":
        memory.keep_freed_memory()
    if technique == "plain attention":
        attention.MATMUL_UP_TO = 0
    batch, model = random_batch(settings), build_model(settings.config("optimized"))
    optimizer = build_adamw(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
    if technique == "fused AdamW":
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=True)

    def separate_loss(ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())

    loss = separate_loss if technique == "head and loss in one" else model
    torch_dtype = choose_dtype(dtype, CPU)
    return {technique: lambda: update(loss, optimizer, [batch], 1.0, CPU, torch_dtype)}
