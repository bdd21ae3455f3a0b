"""The training loop of both pretraining and fine-tuning, which differ in the parameters that require gradients."""

import contextlib
import math
import sys
import time
from dataclasses import asdict, replace

import numpy as np
import torch
from torch import nn

from nanogpt.data.tokens.batches import Replay, Windows
from nanogpt.data.tokens.tokenizer import Tokenizer
from nanogpt.hardware import memory, process_group
from nanogpt.hardware.auto import ComputeSetup, describe_machine, resolve_auto
from nanogpt.hardware.compilation import ASSUMED_FLOPS_PER_S
from nanogpt.hardware.device import autocast, choose_device
from nanogpt.model.build import model_flops
from nanogpt.model.config import ModelConfig
from nanogpt.model.score import validate
from nanogpt.runtime import process
from nanogpt.runtime.cores import usable_cores
from nanogpt.runtime.errors import BadSetting, UserError
from nanogpt.runtime.progress import Progress
from nanogpt.runtime.ranges import Seed, check_value
from nanogpt.training import memory_estimate
from nanogpt.training.exchange import LocalSteps, average_gradients
from nanogpt.training.optimizer import Optimizer, build_optimizer
from nanogpt.training.resume import ResumableRun
from nanogpt.training.run_record import RunRecord
from nanogpt.training.samples import write_sample
from nanogpt.training.saved_states import tensor_bytes
from nanogpt.training.schedule import learning_rate
from nanogpt.training.settings import TrainSettings, fix_steps
from nanogpt.training.step import compile_loss, update
from nanogpt.training.time_budget import steps_in_budget

MAX_SKIPPED_IN_ROW = 10  # steps in a row without a finite loss and gradient, before a run gives up


def resolve_run(config: ModelConfig, settings: TrainSettings, run: ResumableRun | None = None) -> ComputeSetup:
    """Resolve what a training run computes with: as in the saved state of `run`, or else as is best on this machine.

    Of several processes the first one decides for all, but for their threads; the others then find the rates that it
    has measured.
    """
    decided = asdict(_resolve_here(config, settings, run)) if process_group.rank() == 0 else None
    setup = ComputeSetup(**process_group.broadcast(decided))
    if process_group.size() == setup.processes == 1:
        return setup
    threads = usable_cores(processes=process_group.local_size()) if settings.threads == "auto" else settings.threads
    return replace(setup, threads=threads, processes=process_group.size())


def _resolve_here(config: ModelConfig, settings: TrainSettings, run: ResumableRun | None) -> ComputeSetup:
    if run and run.state:
        return ComputeSetup(**run.state["setup"])
    if settings.max_minutes:
        flops = 60 * settings.max_minutes * ASSUMED_FLOPS_PER_S[choose_device(settings.device).type]
    else:
        flops = model_flops(config, settings.step_sequences * config.block_size) * settings.max_steps
    return resolve_auto(settings.device, settings.dtype, settings.threads, settings.compile, flops)


def train(
    model: nn.Module, train_data: Windows | Replay, val_data: Windows, settings: TrainSettings, seed: int,
    run: ResumableRun | None = None, section: str = "train", tokenizer: Tokenizer | None = None,
) -> RunRecord:  # fmt: skip
    """Train the parameters of `model` that require gradients, in place.

    The windows of a step and its randomness are a function of (seed, step). With `run`, states are saved, and training
    resumes from the newest one, to the same bits as without an interruption. At the end the parameters are those of the
    lowest validation loss, or with `settings.keep` last the newest ones. `section` of params.yaml has the batch size,
    for messages. The log of `run` grows (see `run_log`), with texts if there is a `tokenizer` to read them by. Several
    processes (`process_group`) that call this together train one model, each on rows of every batch of its own; they
    end with the same weights and record.
    Raises UserError if the loss or gradient is not finite for MAX_SKIPPED_IN_ROW steps in a row or the validation loss
    is not finite, for a seed out of range, if memory or disk are too small, and for more processes than rows of a
    batch. Raises KeyboardInterrupt after a signal to stop, once the current step is done and saved.
    """
    check_value("seed", Seed, seed)
    if (count := process_group.size()) > settings.batch_size:
        reason = f"fewer than the {count} processes, each of which needs a row"
        raise BadSetting(f"{section}.batch_size", settings.batch_size, reason, "choose more, or fewer processes")
    model.document_start = train_data.document_start
    setup = resolve_run(model.config, settings, run)
    device, dtype = setup.apply()
    if run and device.type == "cpu":
        _check_memory(model, settings, dtype, section, run)
    model.to(device)
    optimizer = build_optimizer(model, settings, dtype)
    loss_of = compile_loss(model) if setup.compile else model
    local = None
    if count > 1 and settings.local_steps > 1:
        local = LocalSteps(model, getattr(torch, settings.exchange_dtype))
    elif count > 1:
        loss_of = average_gradients(model, loss_of, getattr(torch, settings.exchange_dtype))
    record, best = _restore_checkpoint(model, optimizer, local, run, settings.keep)
    record.add_machine(describe_machine(device) | asdict(setup))
    if not record.max_steps:
        record.max_steps = settings.max_steps
        if settings.max_minutes:
            record.max_steps = steps_in_budget(model, loss_of, train_data, val_data, settings, device, dtype)
    settings = fix_steps(settings, record.max_steps)
    step_tokens = settings.step_sequences * train_data.block_size
    first_step = record.step
    log = run.log(record, step_tokens, settings.tensorboard) if run else None
    most_skipped = min(MAX_SKIPPED_IN_ROW, settings.max_steps)
    if record.finished(settings.patience) and record.skipped_in_row >= most_skipped:  # a saved state that ended so
        raise _skipped_error(record, section, learning_rate(record.step - 1, settings), run)

    def save() -> None:
        if run:
            start = time.perf_counter()
            state = {
                "model": _trainable(model),
                "best": best,
                # of processes on their own each has seen other rows
                "optimizer": process_group.gather(optimizer.state_dict()) if local else [optimizer.state_dict()],
                "local": local and local.state_dict(),
                "record": asdict(record) | {"wall_s": record.wall_s + time.monotonic() - run.started},
                "setup": asdict(setup),
            }
            run.save(record.step, state)
            record.saving_s += time.perf_counter() - start

    with (
        process.defer_signals() as stop,
        contextlib.closing(Progress(settings.max_steps, first_step, step_tokens)) as progress,
        contextlib.closing(log) if log else contextlib.nullcontext(),
    ):
        while not record.finished(settings.patience):
            start = time.perf_counter()
            step = record.step
            model.train()
            # dropout is a function of (seed, step), and of the process
            torch.manual_seed(_step_seed(seed, step, process_group.rank()))
            lr = learning_rate(step, settings)
            for group in optimizer.param_groups:
                group["lr"] = lr * group["lr_multiple"]
            first = step * settings.grad_accum
            batches = [train_data.batch(first + i, settings.batch_size) for i in range(settings.grad_accum)]
            ready = time.perf_counter()
            loss = update(loss_of, optimizer, batches, settings.grad_clip, device, dtype)
            updated = time.perf_counter()
            record.log_step(loss)
            done = record.step
            same = not local or done % settings.local_steps == 0 or done == settings.max_steps
            if local and same:
                local.exchange()
            if record.skipped_in_row >= most_skipped:
                if same:
                    save()
                raise _skipped_error(record, section, lr, run)

            if done % settings.log_every == 0 or done == settings.max_steps:
                record.log_row(lr)
                if log:
                    log.add_row(progress.seconds_left(done))
            trained = time.perf_counter()
            if done % settings.eval_every == 0 or done == settings.max_steps:
                with autocast(device, dtype):
                    val_loss = validate(model, val_data, settings.eval_batches, settings.batch_size)
                if not math.isfinite(val_loss):
                    what = f"the validation loss is not finite after step {record.step}"
                    raise _divergence_error(what, section, lr, run)
                record.val_rows.append((done, val_loss))
                if log:
                    log.add_validation()
                if settings.keep == "best" and record.best_step == done:
                    best = {name: p.clone() for name, p in _trainable(model).items()}
                record.validation_s += time.perf_counter() - trained
            if log and tokenizer and settings.sample_every and done % settings.sample_every == 0:
                written = time.perf_counter()
                with autocast(device, dtype):
                    log.add_sample(done, *write_sample(model, val_data.bin, tokenizer, seed))
                record.validation_s += time.perf_counter() - written
            if step == first_step:
                record.first_step_s += trained - start
            else:
                record.timed_tokens += step_tokens
                record.update_s += updated - ready
                record.loop_s += trained - start
            progress.step(done, loss, record.val_rows[-1][1] if record.val_rows else None)
            if not same:  # no one model that could be saved
                continue
            stopping = process_group.any_of(stop.requested)
            if stopping or record.finished(settings.patience) or (run and run.due(done)):
                save()
            if stopping:
                raise KeyboardInterrupt
    if stop.requested:  # since the last step
        raise KeyboardInterrupt
    _load_weights(model, best)
    model.document_start = None
    return record


def _trainable(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def _load_weights(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    for name, tensor in weights.items():
        model.get_parameter(name).copy_(tensor)


def _check_memory(
    model: nn.Module, settings: TrainSettings, dtype: torch.dtype, section: str, run: ResumableRun
) -> None:
    """Raise UserError if memory is certainly too small, and warn if it may be."""
    frozen = not all(p.requires_grad for p in model.parameters())
    # the state becomes weights and moments
    free = memory.available_mib() / process_group.local_size() + tensor_bytes(run.state) / 2**20
    loaded = sum(p.nbytes for p in model.parameters()) / 2**20
    memory_estimate.check_minimum(model.config, settings.batch_size, section, frozen, free + loaded)
    best = tensor_bytes(_trainable(model)) / 2**20 if settings.keep == "best" else 0.0
    memory_estimate.warn_of_memory(model, settings.batch_size, dtype, section, free - best)


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Mix seed, step and process into 32 bits, all that torch's generator on the CPU reads of a seed."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])


def _restore_checkpoint(
    model: nn.Module, optimizer: Optimizer, local: LocalSteps | None, run: ResumableRun | None, keep: str
) -> tuple[RunRecord, dict[str, torch.Tensor]]:
    """Load the saved state of `run`, if there is one, into model and optimizers; return its record and best weights."""
    if not run:
        return RunRecord(), {}
    weights = sum(p.nbytes for p in _trainable(model).values())
    # AdamW keeps two more numbers for each, and the exchange of local steps one
    copies = 1 + (keep == "best") + (1 + 2 * process_group.size() if local else 2)
    run.check_space(state_bytes=copies * weights, out_bytes=weights)
    state, run.state = run.state, None
    if not state:
        return RunRecord(), {}
    _load_weights(model, state["model"])
    optimizers = state["optimizer"]
    optimizer.load_state_dict(optimizers[process_group.rank() % len(optimizers)])
    if local:
        local.restart(state["local"])
    record = RunRecord(**state["record"])
    print(f"resuming after step {record.step}, from the state in {run.folder}", file=sys.stderr)
    return record, state["best"]


def _skipped_error(record: RunRecord, section: str, lr: float, run: ResumableRun | None) -> UserError:
    what = f"no loss and gradient were finite in the {record.skipped_in_row} steps up to step {record.step}"
    return _divergence_error(what, section, lr, run)


def _divergence_error(what: str, section: str, lr: float, run: ResumableRun | None) -> UserError:
    return UserError(f"{what}; lower {section}.lr ({lr:.2g} there)" + (f": {run.describe_saved()}" if run else ""))
