"""A training time in minutes becomes a number of steps, by the speed of this machine at the start of the run."""

import statistics
import time

import torch
from torch import nn

from nanogpt.data.tokens.batches import Replay, Windows
from nanogpt.hardware import process_group
from nanogpt.hardware.device import autocast
from nanogpt.model.score import validate
from nanogpt.training.exchange import Loss
from nanogpt.training.optimizer import build_optimizer
from nanogpt.training.settings import TrainSettings
from nanogpt.training.step import update

# So many seconds, or a twentieth of a short run, and so many steps at least are timed; the first compiles and is not.
MEASURED_S, MIN_STEPS = 5.0, 4


def steps_in_budget(
    model: nn.Module, loss_of: Loss, train_data: Windows | Replay, val_data: Windows, settings: TrainSettings,
    device: torch.device, dtype: torch.dtype,
) -> int:  # fmt: skip
    """Return how many steps, with their validations, fit into `settings.max_minutes`, less the time this call takes.

    Steps of learning rate 0, with an optimizer of their own, leave the weights as they are, to the bit. `loss_of` is
    the model's loss, compiled or not. At least 1. Of several processes the first one's clock decides; what they
    exchange between `local_steps` is not counted.
    """
    start = time.perf_counter()
    optimizer = build_optimizer(model, settings, dtype)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    batches = [train_data.batch(i, settings.batch_size) for i in range(settings.grad_accum)]
    model.train()
    times: list[float] = []
    measured_s = min(MEASURED_S, 60 * settings.max_minutes / 20)
    while process_group.of_first(len(times) <= MIN_STEPS or sum(times[1:]) < measured_s):
        begin = time.perf_counter()
        update(loss_of, optimizer, batches, settings.grad_clip, device, dtype)
        times.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    with autocast(device, dtype):
        validate(model, val_data, settings.eval_batches, settings.batch_size)
    step_s = statistics.median(times[1:]) + (time.perf_counter() - begin) / settings.eval_every
    left = 60 * settings.max_minutes - (time.perf_counter() - start)
    return process_group.broadcast(max(1, int(left / step_s)))
