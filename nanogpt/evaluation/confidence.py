"""95% confidence intervals: of the mean of a few values, and of a share."""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

Z95 = NormalDist().inv_cdf(0.975)
T95 = (12.7062, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216)  # 1 to 9 degrees of freedom


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean of at least two values, and half of its 95% confidence interval by Student's t."""
    return fmean(values), student_t95(len(values) - 1) * stdev(values) / math.sqrt(len(values))


def describe_mean(name: str, values: Sequence[float]) -> dict[str, float]:
    """Return the mean as `name`, and half of its 95% confidence interval as `<name>_ci95` (see `mean_interval`)."""
    return dict(zip((name, f"{name}_ci95"), mean_interval(values), strict=True))


def wilson_ci95(successes: int, trials: int) -> float:
    """Return how far a share is from the farther end of its 95% confidence interval, which no share makes 0.

    The middle of the interval lies between the share and one half. Source: Wilson, Probable Inference, the Law of
    Succession, and Statistical Inference, 1927.
    """
    share, z2 = successes / trials, Z95**2
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z95 * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    return half + abs(middle - share)


def student_t95(df: int) -> float:
    """Return the t for which 95% of Student's distribution with `df` degrees of freedom lies between -t and t.

    Accurate to 1e-5. Source: Abramowitz and Stegun, Handbook of Mathematical Functions (1964), table 26.10 and 26.7.5.
    """
    if df <= len(T95):
        return T95[df - 1]
    return 1.959964 + 2.372271 / df + 2.822499 / df**2 + 2.555852 / df**3 + 1.589536 / df**4
