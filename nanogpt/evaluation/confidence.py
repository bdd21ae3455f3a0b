"""95% confidence intervals of the mean of a few values."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean of at least two values, and half of its 95% confidence interval by Student's t."""
    return fmean(values), student_t95(len(values) - 1) * stdev(values) / math.sqrt(len(values))


def student_t95(df: int) -> float:
    """Return the t for which 95% of Student's distribution with `df` degrees of freedom lies between -t and t.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 26.7.3 and 26.7.4: finite sums over the
    angle atan(t / √df). The angle is found here by bisection.
    """

    def probability(angle: float) -> float:
        cos, term, total = math.cos(angle), math.cos(angle) ** (df % 2), 0.0
        for power in range(df % 2, df - 1, 2):
            total += term
            term *= cos**2 * (power + 1) / (power + 2)
        total *= math.sin(angle)
        return (angle + total) * 2 / math.pi if df % 2 else total

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if probability(middle) < 0.95 else (low, middle)
    return math.sqrt(df) * math.tan(low)
