"""Several processes that train one model together: their speed and their loss, beside those of one process."""

import contextlib
import multiprocessing
import os
import socket
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import torch
import torch.distributed as dist

from nanogpt.benchmark.settings import BenchmarkSettings
from nanogpt.benchmark.timing import Step, Steps, time_in_turns
from nanogpt.benchmark.variants import CPU, random_batch
from nanogpt.hardware import process_group
from nanogpt.hardware.device import choose_dtype, configure_torch
from nanogpt.model.build import build_model, count_parameters
from nanogpt.research.process_runs import ProcessRuns
from nanogpt.runtime.cores import usable_cores
from nanogpt.runtime.errors import UserError
from nanogpt.training.exchange import average_gradients
from nanogpt.training.optimizer import build_adamw
from nanogpt.training.step import update

Build = Callable[[BenchmarkSettings], Step]
PROCESSES = (1, 2, 4)
BATCH = 8
TIMEOUT_S = 600.0  # others wait while one kind of step has its turn
_joined = contextlib.ExitStack()  # until this process ends


def measure_processes(settings: BenchmarkSettings) -> dict[str, float]:
    """Tokens a second of the optimized model at the reference shape, by number of processes, in turns.

    The cores are divided among them; `two_over_one` is the ratio of two processes to one with all threads.
    `planned_…` is what `benchmark/plan` says of them from three times alone: a step of one process, its optimizer, and
    the exchange of the gradients of two.
    """
    entries = {str(n): partial(build_shared_step, str(n), _build_update, settings, n) for n in PROCESSES}
    seconds = time_in_turns(entries, settings.num_iters).medians
    # by themselves: at the end of a turn, all processes but the first begin another step, which takes longer than these
    parts = {"optimizer": (_build_optimizer, 1), "exchange": (_build_exchange, 2)}
    entries = {name: partial(build_shared_step, name, build, settings, n) for name, (build, n) in parts.items()}
    optimizer_s, exchange_s = time_in_turns(entries, settings.num_iters).medians.values()
    rates = {f"tokens_per_s_{name}": settings.tokens / s for name, s in seconds.items()}
    planned = {
        # on one machine all share its cores and its memory: n optimizers, and 2 (n - 1) times all gradients
        f"planned_tokens_per_s_{n}": settings.tokens / (seconds["1"] + (n - 1) * (optimizer_s + exchange_s))
        for n in PROCESSES
    }
    ratio = {"two_over_one": rates["tokens_per_s_2"] / rates["tokens_per_s_1"], "cores": usable_cores()}
    return rates | planned | ratio | {"exchange_s": exchange_s, "optimizer_s": optimizer_s}


def measure_curves(steps: int) -> dict[str, float]:
    """Train params.yaml, with batches of 8, on the built-in stories for `steps` steps by each number of PROCESSES.

    `greatest_loss_difference_percent` is that of a mean of ten training losses from one process's in fp32;
    `bfloat16_…` is the same in bf16. `…_halves` compares one process that takes each batch in two halves, and so sums
    in another order as two processes do, but exchanges nothing.
    """
    figures = {"steps": steps}
    for dtype, name in (("float32", ""), ("bfloat16", "bfloat16_")):
        one, *others = (_loss_curve(steps, dtype, processes=count) for count in PROCESSES)
        figures[f"{name}greatest_loss_difference_percent"] = max(_difference(other, one) for other in others)
        halves = _loss_curve(steps, dtype, batch_size=BATCH // 2, grad_accum=2)
        figures[f"{name}greatest_loss_difference_percent_halves"] = _difference(halves, one)
    return figures


def _loss_curve(steps: int, dtype: str, **changed: int) -> pd.Series:
    settings = {
        "max_steps": steps,
        "max_minutes": None,
        "log_every": 10,
        "batch_size": BATCH,
        "dtype": dtype,
        **changed,
    }
    with tempfile.TemporaryDirectory() as scratch:
        runs = ProcessRuns.make(Path(scratch), documents=5000, vocab_size=2048, train=settings)
        if status := runs.finish(runs.command("model")):
            raise UserError(f"a run with {changed} ended with status {status}")
        return pd.read_csv(Path(scratch, "model", "pretrain-train.csv")).train_loss


def _difference(curve: pd.Series, other: pd.Series) -> float:
    return 100 * (curve / other - 1).abs().max()


def build_shared_step(name: str, build: Build, settings: BenchmarkSettings, count: int) -> Steps:
    """Build a step of `count` processes, of which this is the first; the others take it as often."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    for rank in range(1, count):
        context.Process(target=_repeat, args=(build, settings, rank, count, port), daemon=True).start()
    return {name: _join(build, settings, 0, count, port)}


def _repeat(build: Build, settings: BenchmarkSettings, rank: int, count: int, port: int) -> None:
    step = _join(build, settings, rank, count, port)
    with contextlib.suppress(RuntimeError):  # the first process is done
        while True:
            step()


def _join(build: Build, settings: BenchmarkSettings, rank: int, count: int, port: int) -> Step:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    _joined.enter_context(process_group.join(TIMEOUT_S, CPU))
    configure_torch("auto")
    return build(settings)


def _build_update(settings: BenchmarkSettings) -> Step:
    batch = random_batch(settings)
    model = build_model(settings.config("optimized"))
    optimizer = build_adamw(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
    loss_of = average_gradients(model, model, torch.float32) if process_group.size() > 1 else model
    return partial(update, loss_of, optimizer, [batch], 1.0, CPU, choose_dtype(settings.dtype, CPU))


def _build_optimizer(settings: BenchmarkSettings) -> Step:
    model = build_model(settings.config("optimized"))
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    return build_adamw(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1).step


def _build_exchange(settings: BenchmarkSettings) -> Step:
    gradients = torch.zeros(count_parameters(build_model(settings.config("optimized"))))
    return partial(dist.all_reduce, gradients)
