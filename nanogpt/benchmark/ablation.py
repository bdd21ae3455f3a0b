"""What each piece of the fast step is worth on this machine: the step with all of them against the step without one."""

from functools import partial

import pandas as pd
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

PIECES = ("head and loss in one", "plain attention", "fused AdamW", "kept memory", "oneDNN in fp32")


def benchmark(settings: BenchmarkSettings) -> dict[str, dict[str, float]]:
    """Of the optimized model in both dtypes, uncompiled: step time without a piece over that with all of them."""
    return {short: {piece: _worth(piece, dtype, settings) for piece in PIECES} for short, dtype in DTYPES.items()}


def _worth(piece: str, dtype: Dtype, settings: BenchmarkSettings) -> float:
    entries = {name: partial(step_without, name, dtype, settings) for name in (piece, "nothing")}
    medians = time_in_turns(entries, settings.num_iters).medians
    return medians[piece] / medians["nothing"]


def step_without(piece: str, dtype: Dtype, settings: BenchmarkSettings) -> Steps:
    """A training step in this process, as `configure_torch` and `train` make it but for one piece."""
    set_threads(settings.threads)
    torch.set_flush_denormal(True)
    if piece != "oneDNN in fp32":
        use_fast_float32()
    if piece != "kept memory":
        memory.keep_freed_memory()
    if piece == "plain attention":
        attention.MATMUL_UP_TO = 0
    batch, model = random_batch(settings), build_model(settings.config("optimized"))
    optimizer = build_adamw(model, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
    if piece == "fused AdamW":
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=True)

    def apart(ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())

    loss_of = apart if piece == "head and loss in one" else model
    kind = choose_dtype(dtype, CPU)
    return {piece: lambda: update(loss_of, optimizer, [batch], 1.0, CPU, kind)}


def table(figures: dict[str, dict[str, float]]) -> str:
    """The figures as aligned lines for a terminal."""
    return "step time without it, over that with all\n" + pd.DataFrame(figures).round(3).to_string()
