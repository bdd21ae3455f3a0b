"""The one training loop: pretraining and fine-tuning differ in which parameters learn."""

import contextlib
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from nanogpt import estimate, optim
from nanogpt.data.tokens.batches import Windows
from nanogpt.hardware import memory
from nanogpt.hardware.auto import Choices, describe_machine, resolve_auto
from nanogpt.hardware.compilation import Compile
from nanogpt.hardware.device import Dtype, autocast
from nanogpt.model.build import model_flops
from nanogpt.model.config import ModelConfig
from nanogpt.model.score import validate
from nanogpt.record import Record
from nanogpt.resume import every
from nanogpt.resume.states import size
from nanogpt.runtime import process
from nanogpt.runtime.errors import BadSetting, UserError
from nanogpt.runtime.progress import Progress
from nanogpt.training.compiled import compile_loss
from nanogpt.training.resume import Work

MOST_SKIPPED = 10  # steps in a row without a finite loss and gradient, before a run gives up


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
    dtype: Dtype
    compile: Compile
    threads: int | Literal["auto"]
    device: Literal["auto", "cpu", "cuda", "mps"]
    checkpoint_every: int | str
    init_from: str

    def __post_init__(self) -> None:
        check_schedule(self)
        every.parse(self.checkpoint_every)
        for key in ("grad_accum", "eval_every", "eval_batches", "log_every"):
            if getattr(self, key) < 1:
                raise BadSetting(key, getattr(self, key), "must be at least 1", "choose a positive whole number")
        if self.threads != "auto" and not 1 <= self.threads <= 4096:
            raise BadSetting("threads", self.threads, "not between 1 and 4096", "choose auto or a number of cores")
        if self.weight_decay < 0:
            raise BadSetting("weight_decay", self.weight_decay, "is negative", "choose 0.0 to 0.1")
        for key in ("beta1", "beta2"):
            if not 0 <= getattr(self, key) < 1:
                raise BadSetting(key, getattr(self, key), "not between 0 and 1", "0.9 and 0.95 to 0.999 are usual")
        if self.grad_clip <= 0:
            raise BadSetting("grad_clip", self.grad_clip, "must be above 0", "1.0 is usual; a large value never clips")

    @property
    def step_sequences(self) -> int:
        """Sequences that a step reads."""
        return self.batch_size * self.grad_accum

    def made_of(self) -> dict:
        """What of it decides a run's result: not how often it is saved, nor what a checkpoint is called."""
        return {key: value for key, value in asdict(self).items() if key not in ("checkpoint_every", "init_from")}


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


def check_seed(seed: int) -> None:
    """Raise BadSetting for a seed that torch's generator on the CPU would not tell from another."""
    if not 0 <= seed < 2**32:
        raise BadSetting("seed", seed, f"not between 0 and {2**32 - 1}", "choose a small whole number, like 1")


def begin(config: ModelConfig, settings: TrainSettings, work: Work | None = None) -> Choices:
    """What a run computes with: what it began with, where `work` has a state of it, or else what `auto` comes to."""
    if work and work.state:
        return Choices(**work.state["choices"])
    flops = model_flops(config, settings.step_sequences * config.block_size) * settings.max_steps
    return resolve_auto(settings.device, settings.dtype, settings.threads, settings.compile, flops)


def train(
    model: nn.Module, train_data: Windows, val_data: Windows, settings: TrainSettings, seed: int,
    work: Work | None = None, section: str = "train",
) -> Record:  # fmt: skip
    """Teach the parameters of `model` that require gradients, in place.

    Which windows a step reads is a function of (seed, step), and so is its randomness. With `work`, states are saved,
    and where it has one the run goes on from there to the same bits as if it had never ended. `section` of params.yaml
    is where the batch size stands.
    Raises UserError where no loss and gradient were finite for MOST_SKIPPED steps in a row, where a validation loss is
    not finite, for a seed that is negative or too large, and where memory or disk are short. Raises
    KeyboardInterrupt after a signal to stop, once the step is done and saved.
    """
    check_seed(seed)
    choices = begin(model.config, settings, work)
    device, dtype = choices.apply()
    if work and device.type == "cpu":
        free = memory.available_mib() + size(work.state) / 2**20  # what is read of a state is not taken twice
        estimate.check(model, settings.batch_size, settings.grad_accum, dtype, section, free)
    model.to(device)
    optimizer = optim.adamw(model, settings.lr, (settings.beta1, settings.beta2), settings.weight_decay)
    record = _take_up(model, optimizer, work)
    record.on(describe_machine() | asdict(choices))
    loss_of = compile_loss(model) if choices.compile else model
    step_tokens = settings.step_sequences * train_data.block_size
    begun = record.step

    def save() -> None:
        if work:
            start = time.perf_counter()
            work.save(record.step, _state(model, optimizer, record, choices, work.started))
            record.saving_s += time.perf_counter() - start

    with (
        process.defer_signals() as stop,
        contextlib.closing(Progress(settings.max_steps, begun, step_tokens)) as progress,
    ):
        while record.step < settings.max_steps:
            start = time.perf_counter()
            step = record.step
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
            ready = time.perf_counter()
            loss = update(loss_of, optimizer, batches, settings.grad_clip, device, dtype)
            updated = time.perf_counter()
            record.took(loss)
            done, last = record.step, record.step == settings.max_steps
            if record.skipped_in_row >= min(MOST_SKIPPED, settings.max_steps):
                save()
                what = f"no loss and gradient were finite in the {record.skipped_in_row} steps up to step {record.step}"
                raise _diverged(what, lr, work)

            if done % settings.log_every == 0 or last:
                record.log(lr)
            trained = time.perf_counter()
            if done % settings.eval_every == 0 or last:
                with autocast(device, dtype):
                    val_loss = validate(model, val_data, settings.eval_batches, settings.batch_size)
                if not math.isfinite(val_loss):
                    raise _diverged(f"the validation loss is not finite after step {record.step}", lr, work)
                record.val_rows.append((done, val_loss))
                record.validation_s += time.perf_counter() - trained
            if step == begun:
                record.first_step_s += trained - start
            else:
                record.timed_tokens += step_tokens
                record.busy_s += updated - ready
                record.loop_s += trained - start
            progress.step(done, loss, record.val_rows[-1][1] if record.val_rows else None)
            if stop.requested or last or (work and work.due(done)):
                save()
            if stop.requested:
                raise KeyboardInterrupt
    if stop.requested:  # since then
        raise KeyboardInterrupt
    return record


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
    Returns the mean loss in nats per token, before the step; where it or the gradient is not finite, NaN, and
    nothing has changed then.
    """
    total = 0.0
    for ids, targets in batches:
        with autocast(device, dtype):
            loss = loss_of(ids.to(device), targets.to(device)) / len(batches)
        loss.backward()
        total += loss.item()
    learning = [p for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(learning, grad_clip).item()
    finite = math.isfinite(total) and math.isfinite(norm)
    if finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total if finite else math.nan


def _step_seed(seed: int, step: int) -> int:
    """Both mixed into 32 bits: torch's generator on the CPU reads no more of a seed."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


def _state(
    model: nn.Module, optimizer: torch.optim.Optimizer, record: Record, choices: Choices, started: float
) -> dict:
    return {
        "model": {name: p.detach() for name, p in model.named_parameters() if p.requires_grad},
        "optimizer": optimizer.state_dict(),
        "record": asdict(record) | {"wall_s": record.wall_s + time.monotonic() - started},
        "choices": asdict(choices),
    }


@torch.no_grad()
def _take_up(model: nn.Module, optimizer: torch.optim.Optimizer, work: Work | None) -> Record:
    """Put the saved state of a run, where there is one, into model and optimizer; its record."""
    if not work:
        return Record()
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    weights = sum(p.nbytes for p in learning.values())
    work.check_space(state_bytes=3 * weights, out_bytes=weights)  # AdamW keeps two more numbers for each
    state, work.state = work.state, None
    if not state:
        return Record()
    for name, p in learning.items():
        p.copy_(state["model"][name])
    optimizer.load_state_dict(state["optimizer"])
    record = Record(**state["record"])
    print(f"going on after step {record.step}, from the state in {work.folder}", file=sys.stderr)
    return record


def _diverged(what: str, lr: float, work: Work | None) -> UserError:
    return UserError(f"{what}; lower the learning rate ({lr:.2g} here)" + (f": {work.kept()}" if work else ""))
