"""The one training loop: pretraining and fine-tuning differ in which parameters learn."""

import contextlib
import math
import sys
import time
from dataclasses import asdict

import numpy as np
import torch
from torch import nn

from nanogpt.data.tokens.batches import Windows
from nanogpt.hardware import memory
from nanogpt.hardware.auto import Choices, describe_machine, resolve_auto
from nanogpt.hardware.device import autocast
from nanogpt.model.build import model_flops
from nanogpt.model.config import ModelConfig
from nanogpt.model.score import validate
from nanogpt.runtime import process
from nanogpt.runtime.errors import UserError
from nanogpt.runtime.progress import Progress
from nanogpt.runtime.ranges import Seed, check_value
from nanogpt.training import memory_estimate
from nanogpt.training.optimizer import build_adamw
from nanogpt.training.resume import ResumableRun
from nanogpt.training.run_record import RunRecord
from nanogpt.training.saved_states import tensor_bytes
from nanogpt.training.schedule import learning_rate
from nanogpt.training.settings import TrainSettings
from nanogpt.training.step import compile_loss, update

MAX_SKIPPED_IN_ROW = 10  # steps in a row without a finite loss and gradient, before a run gives up


def resolve_run(config: ModelConfig, settings: TrainSettings, work: ResumableRun | None = None) -> Choices:
    """What a run computes with: what it began with, where `work` has a state of it, or else what `auto` comes to."""
    if work and work.state:
        return Choices(**work.state["choices"])
    flops = model_flops(config, settings.step_sequences * config.block_size) * settings.max_steps
    return resolve_auto(settings.device, settings.dtype, settings.threads, settings.compile, flops)


def train(
    model: nn.Module, train_data: Windows, val_data: Windows, settings: TrainSettings, seed: int,
    work: ResumableRun | None = None, section: str = "train",
) -> RunRecord:  # fmt: skip
    """Teach the parameters of `model` that require gradients, in place.

    Which windows a step reads is a function of (seed, step), and so is its randomness. With `work`, states are saved,
    and where it has one the run goes on from there to the same bits as if it had never ended. `section` of params.yaml
    is where the batch size stands.
    Raises UserError where no loss and gradient were finite for MOST_SKIPPED steps in a row, where a validation loss is
    not finite, for a seed that is negative or too large, and where memory or disk are short. Raises
    KeyboardInterrupt after a signal to stop, once the step is done and saved.
    """
    check_value("seed", Seed, seed)
    choices = resolve_run(model.config, settings, work)
    device, dtype = choices.apply()
    if work and device.type == "cpu":
        free = memory.available_mib() + tensor_bytes(work.state) / 2**20  # what is read of a state is not taken twice
        memory_estimate.check_memory(model, settings.batch_size, settings.grad_accum, dtype, section, free)
    model.to(device)
    optimizer = build_adamw(model, settings.lr, (settings.beta1, settings.beta2), settings.weight_decay)
    record = _restore_checkpoint(model, optimizer, work)
    record.add_machine(describe_machine() | asdict(choices))
    loss_of = compile_loss(model) if choices.compile else model
    step_tokens = settings.step_sequences * train_data.block_size
    begun = record.step

    def save() -> None:
        if work:
            start = time.perf_counter()
            work.save(record.step, _checkpoint(model, optimizer, record, choices, work.started))
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
            lr = learning_rate(
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
            record.log_step(loss)
            done, last = record.step, record.step == settings.max_steps
            if record.skipped_in_row >= min(MAX_SKIPPED_IN_ROW, settings.max_steps):
                save()
                what = f"no loss and gradient were finite in the {record.skipped_in_row} steps up to step {record.step}"
                raise _divergence_error(what, lr, work)

            if done % settings.log_every == 0 or last:
                record.log_row(lr)
            trained = time.perf_counter()
            if done % settings.eval_every == 0 or last:
                with autocast(device, dtype):
                    val_loss = validate(model, val_data, settings.eval_batches, settings.batch_size)
                if not math.isfinite(val_loss):
                    raise _divergence_error(f"the validation loss is not finite after step {record.step}", lr, work)
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


def _step_seed(seed: int, step: int) -> int:
    """Both mixed into 32 bits: torch's generator on the CPU reads no more of a seed."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


def _checkpoint(
    model: nn.Module, optimizer: torch.optim.Optimizer, record: RunRecord, choices: Choices, started: float
) -> dict:
    return {
        "model": {name: p.detach() for name, p in model.named_parameters() if p.requires_grad},
        "optimizer": optimizer.state_dict(),
        "record": asdict(record) | {"wall_s": record.wall_s + time.monotonic() - started},
        "choices": asdict(choices),
    }


@torch.no_grad()
def _restore_checkpoint(model: nn.Module, optimizer: torch.optim.Optimizer, work: ResumableRun | None) -> RunRecord:
    """Put the saved state of a run, where there is one, into model and optimizer; its record."""
    if not work:
        return RunRecord()
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    weights = sum(p.nbytes for p in learning.values())
    work.check_space(state_bytes=3 * weights, out_bytes=weights)  # AdamW keeps two more numbers for each
    state, work.state = work.state, None
    if not state:
        return RunRecord()
    for name, p in learning.items():
        p.copy_(state["model"][name])
    optimizer.load_state_dict(state["optimizer"])
    record = RunRecord(**state["record"])
    print(f"going on after step {record.step}, from the state in {work.folder}", file=sys.stderr)
    return record


def _divergence_error(what: str, lr: float, work: ResumableRun | None) -> UserError:
    return UserError(f"{what}; lower the learning rate ({lr:.2g} here)" + (f": {work.kept()}" if work else ""))
