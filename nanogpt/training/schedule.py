"""The learning rate of each step."""

import math

from nanogpt.training.settings import TrainSettings


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Compute the learning rate of `step`, counted from 0: linear warm-up to `lr`, then down to `min_lr`.

    The way down is half a turn of a cosine (Loshchilov & Hutter 2016, arXiv:1608.03983) or a straight line, which is
    best to zero (Bergsma et al. 2025, arXiv:2502.15938). The last step has `min_lr`, unless it is the first after the
    warm-up. `settings.warmup_steps` is a number of steps.
    """
    warmup, peak = settings.warmup_steps, settings.lr
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, settings.max_steps - 1 - warmup))
    share = 1 - progress if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return settings.min_lr + (peak - settings.min_lr) * share
