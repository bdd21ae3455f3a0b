"""The one training loop: pretraining and fine-tuning differ in which parameters learn."""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from nanogpt import atomic, hardware, optim
from nanogpt.compiling import Compile, compiled_loss, compiles
from nanogpt.errors import BadSetting, UserError
from nanogpt.evaluate import Score, bits_per_byte, window_loss
from nanogpt.model import model_flops
from nanogpt.tokens import Bin, Windows

if TYPE_CHECKING:
    import pandas as pd  # takes 66 MiB: it is imported once training has given back its own

LOG_SECONDS = 10  # between two lines of progress where there is no terminal


@dataclass(frozen=True)
class TrainSettings:
    """Section `train` of params.yaml; lora-finetune replaces some of it with its own."""

    max_steps: int
    batch_size: int
    grad_accum: int
    lr: float
    min_lr: float
    warmup_steps: int
    weight_decay: float
    beta1: float
    beta2: float
    grad_clip: float
    eval_every: int
    eval_batches: int
    log_every: int
    dtype: hardware.Dtype
    compile: Compile
    threads: int | Literal["auto"]
    device: Literal["auto", "cpu", "cuda", "mps"]
    init_from: str

    def __post_init__(self) -> None:
        check_schedule(self)
        for key in ("grad_accum", "eval_every", "eval_batches", "log_every"):
            if getattr(self, key) < 1:
                raise BadSetting(key, getattr(self, key), "must be at least 1", "choose a positive whole number")
        if self.threads != "auto" and self.threads < 1:
            raise BadSetting("threads", self.threads, "must be at least 1", "choose auto or a number of cores")
        if self.weight_decay < 0:
            raise BadSetting("weight_decay", self.weight_decay, "is negative", "choose 0.0 to 0.1")
        for key in ("beta1", "beta2"):
            if not 0 <= getattr(self, key) < 1:
                raise BadSetting(key, getattr(self, key), "not between 0 and 1", "0.9 and 0.95 to 0.999 are usual")
        if self.grad_clip <= 0:
            raise BadSetting("grad_clip", self.grad_clip, "must be above 0", "1.0 is usual; a large value never clips")


def check_schedule(settings) -> None:
    """Check the keys that the sections `train` and `lora` share. Raises BadSetting for a wrong value."""
    for key in ("max_steps", "batch_size"):
        if getattr(settings, key) < 1:
            raise BadSetting(key, getattr(settings, key), "must be at least 1", "choose a positive whole number")
    if not 0 < settings.lr <= 1:
        raise BadSetting("lr", settings.lr, "not between 0 and 1", "choose 0.0001 to 0.01")
    if not 0 <= settings.min_lr <= settings.lr:
        raise BadSetting("min_lr", settings.min_lr, f"not between 0 and lr = {settings.lr}", "a tenth of lr is usual")
    if not 0 <= settings.warmup_steps < settings.max_steps:
        reason = f"not between 0 and max_steps = {settings.max_steps}"
        raise BadSetting("warmup_steps", settings.warmup_steps, reason, "a twentieth of max_steps is usual")


@dataclass(frozen=True)
class Run:
    """What a training run leaves besides the weights.

    Curves are tables of (step, train_loss, lr) and (step, val_loss), losses in nats per token.
    `first_step_s` compiles and touches memory and `validation_s` is all of validation. Of the seconds beside these
    two `overhead_share` is the part outside forward, backward and optimizer, and `tokens_per_s` is over them too.
    """

    train_curve: "pd.DataFrame"
    val_curve: "pd.DataFrame"
    tokens_per_s: float
    overhead_share: float
    first_step_s: float
    validation_s: float

    def save_curves(self, folder: Path | str, stage: str) -> None:
        """Write the curves as `<stage>-train.csv` and `<stage>-val.csv`."""
        for name, curve in (("train", self.train_curve), ("val", self.val_curve)):
            Path(folder).mkdir(parents=True, exist_ok=True)
            atomic.write_text(Path(folder) / f"{stage}-{name}.csv", curve.to_csv(index=False, float_format="%.6g"))

    def figures(self, score: Score, val_data: Bin, started: float) -> dict:
        """The run's metrics: losses, bits per byte, speed, memory, seconds since `started` (time.monotonic()).

        `score` is that of every document of `val_data`; `floor.bpb` is the entropy of those same
        documents and is there only where it is known (built-in corpora).
        """
        figures = {
            "train": {"loss_nats": self.train_curve.train_loss.iloc[-1].item()},
            "val": {"loss_nats": score.loss_nats, "bpb": score.bpb},
            "tokens_per_s": self.tokens_per_s,
            "overhead_share": self.overhead_share,
            "first_step_s": self.first_step_s,
            "validation_s": self.validation_s,
            "peak_mib": hardware.peak_mib(),
            "wall_s": time.monotonic() - started,
        }
        if val_data.counts.bits is not None:
            figures["floor"] = {"bpb": bits_per_byte(val_data.counts.bits, score.n_bytes)}
        return figures


def check_seed(seed: int) -> None:
    """Raise BadSetting for a seed that torch's generator on the CPU would not tell from another."""
    if not 0 <= seed < 2**32:
        raise BadSetting("seed", seed, f"not between 0 and {2**32 - 1}", "choose a small whole number, like 1")


def train(model: nn.Module, train_data: Windows, val_data: Windows, settings: TrainSettings, seed: int) -> Run:
    """Teach the parameters of `model` that require gradients, in place.

    Which windows a step reads is a function of (seed, step), and so is its randomness. Raises
    UserError where a loss is not finite, or for a seed that is negative or too large.
    """
    check_seed(seed)
    device = hardware.device(settings.device)
    hardware.tune(settings.threads)
    dtype = hardware.dtype(settings.dtype, device)
    model.to(device)
    optimizer = optim.adamw(model, settings.lr, (settings.beta1, settings.beta2), settings.weight_decay)
    step_tokens = settings.batch_size * settings.grad_accum * train_data.block_size
    flops = model_flops(model.config, step_tokens) * settings.max_steps
    loss_of = compiled_loss(model) if compiles(settings.compile, flops, device) else model

    train_rows, val_rows, recent = [], [], []
    progress = _Progress(settings.max_steps, step_tokens)
    busy = first_step_s = validation_s = 0.0
    begun = time.perf_counter()
    for step in range(settings.max_steps):
        model.train()
        torch.manual_seed(_step_seed(seed, step))  # dropout is a function of (seed, step)
        lr = optim.learning_rate(
            step, peak=settings.lr, floor=settings.min_lr, warmup_steps=settings.warmup_steps,
            max_steps=settings.max_steps,
        )  # fmt: skip
        for group in optimizer.param_groups:
            group["lr"] = lr
        first = step * settings.grad_accum
        batches = [train_data.batch(first + i, settings.batch_size) for i in range(settings.grad_accum)]
        start = time.perf_counter()
        loss = update(loss_of, optimizer, batches, settings.grad_clip, device, dtype)
        if step == 0:
            first_step_s = time.perf_counter() - start
        else:
            busy += time.perf_counter() - start
        if not math.isfinite(loss):
            raise _not_finite("training", step, lr)

        recent.append(loss)
        done = step + 1
        if done % settings.log_every == 0 or done == settings.max_steps:
            train_rows.append((done, sum(recent) / len(recent), lr))
            recent = []
        if done % settings.eval_every == 0 or done == settings.max_steps:
            start = time.perf_counter()
            with hardware.autocast(device, dtype):
                val_loss = window_loss(model, val_data, settings.eval_batches, settings.batch_size)
            if not math.isfinite(val_loss):
                raise _not_finite("validation", step, lr)
            val_rows.append((done, val_loss))
            validation_s += time.perf_counter() - start
        progress.step(done, loss, val_rows[-1][1] if val_rows else None)
    progress.close()
    seconds = time.perf_counter() - begun - first_step_s - validation_s
    import pandas as pd

    return Run(
        pd.DataFrame(train_rows, columns=["step", "train_loss", "lr"]),
        pd.DataFrame(val_rows, columns=["step", "val_loss"]),
        tokens_per_s=(settings.max_steps - 1) * step_tokens / seconds,
        overhead_share=1 - busy / seconds,
        first_step_s=first_step_s,
        validation_s=validation_s,
    )


def update(
    loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    batches: list[tuple[torch.Tensor, torch.Tensor]],
    grad_clip: float,
    device: torch.device,
    dtype: torch.dtype,
) -> float:
    """One optimizer step on the mean gradient of `batches`, clipped to norm `grad_clip`.

    `batches` are pairs (ids, targets), each (B, T) int64, of which `loss_of`, like a model, makes a mean loss; `dtype`
    is that of matrix products.
    Returns the mean loss in nats per token, before the step.
    """
    total = 0.0
    for ids, targets in batches:
        with hardware.autocast(device, dtype):
            loss = loss_of(ids.to(device), targets.to(device)) / len(batches)
        loss.backward()
        total += loss.item()
    learning = [p for group in optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(learning, grad_clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def _step_seed(seed: int, step: int) -> int:
    """Both mixed into 32 bits: torch's generator on the CPU reads no more of a seed."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


def _not_finite(which: str, step: int, lr: float) -> UserError:
    return UserError(f"the {which} loss is not finite at step {step}; lower the learning rate ({lr:.2g} here)")


class _Progress:
    """A bar on a terminal, a plain line every few seconds elsewhere."""

    def __init__(self, max_steps: int, tokens_per_step: int):
        self.max_steps, self.tokens_per_step = max_steps, tokens_per_step
        self.start = self.logged = time.monotonic()
        self.bar = tqdm(total=max_steps, unit="step", disable=not sys.stderr.isatty(), dynamic_ncols=True)

    def step(self, done: int, loss: float, val_loss: float | None) -> None:
        now = time.monotonic()
        rate = done * self.tokens_per_step / (now - self.start)
        text = f"loss {loss:.3f}" + (f", validation {val_loss:.3f}" if val_loss is not None else "")
        text += f", {rate:,.0f} tokens/s"
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update()
        if self.bar.disable and (now - self.logged >= LOG_SECONDS or done in (1, self.max_steps)):
            left = (now - self.start) / done * (self.max_steps - done)
            print(f"step {done}/{self.max_steps}: {text}, {left:.0f} s left", file=sys.stderr, flush=True)
            self.logged = now

    def close(self) -> None:
        self.bar.close()
