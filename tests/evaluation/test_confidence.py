import math

import numpy as np
import pytest

from nanogpt.evaluation.confidence import mean_interval, student_t95


@pytest.mark.parametrize(
    ("df", "t"), [(1, 12.7062), (2, 4.30265), (4, 2.77645), (9, 2.26216), (29, 2.04523), (100, 1.98397)]
)
def test_t_is_that_of_the_tables(df, t):
    assert student_t95(df) == pytest.approx(t, rel=2e-6)


@pytest.mark.parametrize("df", [3, 4, 7, 40])
def test_95_percent_of_the_density_lie_within_t(df):
    x, dx = np.linspace(-student_t95(df), student_t95(df), 100_001, retstep=True)
    density = (1 + x**2 / df) ** (-(df + 1) / 2)
    density *= math.gamma((df + 1) / 2) / math.gamma(df / 2) / math.sqrt(df * math.pi)
    assert (density[1:] + density[:-1]).sum() * dx / 2 == pytest.approx(0.95, abs=1e-8)


def test_an_interval_is_that_of_the_mean():
    values = np.array([1.31, 1.28, 1.35, 1.30, 1.27])
    error = np.sqrt(((values - values.mean()) ** 2).sum() / 4) / np.sqrt(5)
    assert mean_interval(values.tolist()) == (pytest.approx(values.mean()), pytest.approx(2.77645 * error, rel=1e-5))


def test_intervals_hold_the_mean_in_95_of_100_series():
    random = np.random.default_rng(1)
    means, within = zip(*(mean_interval(sample.tolist()) for sample in random.normal(3.0, 0.5, (4000, 3))), strict=True)
    assert np.mean(np.abs(np.array(means) - 3.0) < within) == pytest.approx(0.95, abs=0.01)
