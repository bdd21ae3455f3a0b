import math

import numpy as np
import pytest

from nanogpt.evaluation.confidence import mean_interval, student_t95, wilson_ci95


@pytest.mark.parametrize(("df", "t"), [(1, 12.7062), (4, 2.77645), (10, 2.22814), (29, 2.04523), (100, 1.98397)])
def test_t_is_that_of_the_tables(df, t):
    assert student_t95(df) == pytest.approx(t, rel=1e-5)


def test_an_interval_is_that_of_the_mean():
    values = np.array([1.31, 1.28, 1.35, 1.30, 1.27])
    error = np.sqrt(((values - values.mean()) ** 2).sum() / 4) / np.sqrt(5)
    assert mean_interval(values.tolist()) == (pytest.approx(values.mean()), pytest.approx(2.77645 * error, rel=1e-5))


@pytest.mark.parametrize("share", [0.5, 0.9, 0.96, 0.99])
def test_the_interval_of_a_share_holds_it_95_times_in_100(share):
    """Exactly, by the probability of each count."""
    for trials in (50, 64, 431):
        covered = sum(
            math.comb(trials, n) * share**n * (1 - share) ** (trials - n)
            for n in range(trials + 1)
            if abs(n / trials - share) <= wilson_ci95(n, trials)
        )
        assert covered > 0.93
