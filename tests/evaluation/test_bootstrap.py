import numpy as np
import pytest

from evaluation.bootstrap import interval


def test_the_interval_of_a_constant_is_a_point():
    assert interval(np.mean, np.full(30, 0.25)) == (0.25, 0.25)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_the_interval_covers_the_true_mean_at_about_its_level(level):
    generator = np.random.default_rng(1)
    covered = 0
    for repetition in range(300):
        lower, upper = interval(np.mean, generator.exponential(size=60), level=level, resamples=200, seed=repetition)
        covered += lower <= 1 <= upper
    assert level - 0.08 < covered / 300 < level + 0.05


def test_the_interval_is_the_quantiles_of_the_resampled_figures():
    seen = []

    def statistic(values):
        seen.append(values.mean())
        return seen[-1]

    lower, upper = interval(statistic, np.arange(10.0), level=0.8, resamples=100)
    assert len(seen) == 100
    assert (lower, upper) == pytest.approx(np.quantile(seen, [0.1, 0.9]))


def test_draws_are_with_replacement_and_of_the_same_size():
    draws = []
    interval(lambda values: draws.append(sorted(values)) or 0.0, [1, 2, 3, 4, 5, 6], resamples=20)
    assert all(len(draw) == 6 and set(draw) <= {1, 2, 3, 4, 5, 6} for draw in draws)
    assert sum(len(set(draw)) < 6 for draw in draws) > 10


def test_columns_are_resampled_together():
    first = np.random.default_rng(0).normal(size=50)
    lower, upper = interval(lambda a, b: (a - b).mean(), first + 1, first)
    assert (lower, upper) == pytest.approx((1, 1))


def test_columns_may_be_lists_of_booleans():
    lower, upper = interval(np.mean, [True, False] * 20)
    assert 0.3 < lower < 0.5 < upper < 0.7


def test_a_seed_gives_its_own_interval_again():
    values = np.random.default_rng(0).normal(size=50)
    first, again, other = (interval(np.mean, values, resamples=200, seed=seed) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_a_higher_level_is_wider():
    values = np.random.default_rng(0).normal(size=50)
    (low, high), (lower, higher) = (interval(np.mean, values, level=level, resamples=300) for level in (0.5, 0.99))
    assert lower < low < high < higher
