"""95% confidence intervals of a mean of few values."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean of at least two values, and half of its 95% confidence interval by Student's t."""
    return fmean(values), student_t95(len(values) - 1) * stdev(values) / math.sqrt(len(values))


def student_t95(df: int) -> float:
    """The t that 95% of Student's distribution with `df` degrees of freedom lies within, on both sides of 0.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 26.7.3 and 26.7.4, finite sums in
    the angle atan(t / √df), which is found here by halving.
    """

    def within(angle: float) -> float:
        cos, term, total = math.cos(angle), math.cos(angle) ** (df % 2), 0.0
        for power in range(df % 2, df - 1, 2):
            total += term
            term *= cos**2 * (power + 1) / (power + 2)
        total *= math.sin(angle)
        return (angle + total) * 2 / math.pi if df % 2 else total

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < 0.95 else (low, middle)
    return math.sqrt(df) * math.tan(low)
