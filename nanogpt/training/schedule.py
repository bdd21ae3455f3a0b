"""The learning rate of each step."""

import math


def learning_rate(step: int, *, peak: float, floor: float, warmup_steps: int, max_steps: int) -> float:
    """Compute the learning rate of `step`, counted from 0: linear warmup to `peak`, then a cosine down to `floor`.

    The last step has `floor`. Source: Loshchilov & Hutter 2016, arXiv:1608.03983.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, max_steps - 1 - warmup_steps)
    return floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi * min(1.0, progress)))
