from collections import Counter

import numpy as np
import pytest

from evaluation.bootstrap import ClusteredResamples, interval, mean_interval


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


def test_rows_of_a_cluster_are_drawn_together_as_often_as_there_are_clusters():
    clusters = np.array(["b", "a", "b", "c", "a", "a"])
    rows = np.arange(6)
    draws = []
    interval(lambda values: draws.append(values) or 0.0, rows, clusters=clusters, resamples=50)
    for draw in draws:
        counts = np.bincount(draw, minlength=6)
        assert all(len(set(counts[clusters == cluster])) == 1 for cluster in "abc")
        assert counts[[0, 1, 3]].sum() == 3
    assert len({tuple(draw) for draw in draws}) > 5


def test_equal_rows_in_clusters_leave_the_interval_of_the_clusters():
    values = np.random.default_rng(0).normal(size=40)
    once = interval(np.mean, values)
    assert interval(np.mean, np.repeat(values, 5), clusters=np.repeat(np.arange(40), 5)) == pytest.approx(once)


# Clustered resamples

CLUSTERS = ["b", "a", "b", "a", "a", "c"]  # of two, three and one
SIZES = {"a": 3, "b": 2, "c": 1}


def held(counts, cluster):
    """How many rows of a cluster each resample holds."""
    return counts[:, np.array(CLUSTERS) == cluster].sum(1)


def test_as_many_clusters_are_drawn_as_there_are_each_with_as_many_rows_as_it_has():
    counts = ClusteredResamples(CLUSTERS, resamples=200).overall
    assert counts.shape == (200, 6)
    chosen = {cluster: held(counts, cluster) / size for cluster, size in SIZES.items()}
    assert set(np.concatenate([*chosen.values()])) == {0, 1, 2, 3}
    assert (sum(chosen.values()) == 3).all()


def test_within_the_clusters_each_keeps_its_size_and_its_rows_vary():
    counts = ClusteredResamples(CLUSTERS, resamples=200).within
    for cluster, size in SIZES.items():
        assert (held(counts, cluster) == size).all()
    assert set(counts[:, 0]) == {0, 1, 2}
    assert set(counts[:, 1]) == {0, 1, 2, 3}


def test_clusters_and_rows_are_drawn_with_equal_chances():
    counts = ClusteredResamples(["a", "a", "b", "b"], resamples=40_000).overall
    shares = {draw: number / 40_000 for draw, number in Counter(map(tuple, counts.astype(int))).items()}
    # Both draws the first cluster: 1/4; then four rows of its two: binomial.
    assert shares[4, 0, 0, 0] == pytest.approx(1 / 4 / 16, abs=0.004)
    assert shares[2, 2, 0, 0] == pytest.approx(1 / 4 * 6 / 16, abs=0.01)
    # One draw each: 1/2; then two rows of each one's two.
    assert shares[1, 1, 0, 2] == pytest.approx(1 / 2 / 2 / 4, abs=0.01)


def test_rows_of_a_single_cluster_are_resampled_as_ever():
    values = np.random.default_rng(3).normal(size=40)
    resamples = ClusteredResamples(["a"] * 40, resamples=4_000)
    expected = interval(np.mean, values, resamples=4_000)
    for counts in (resamples.overall, resamples.within):
        assert mean_interval(counts, values) == pytest.approx(expected, abs=0.03)


def test_resamples_of_no_rows_are_refused():
    with pytest.raises(ValueError, match="no rows"):
        ClusteredResamples([])


def test_a_seed_gives_its_own_resamples_again():
    first, again, other = (ClusteredResamples(CLUSTERS, resamples=20, seed=seed) for seed in (7, 7, 8))
    assert (first.overall == again.overall).all()
    assert (first.within == again.within).all()
    assert (first.overall != other.overall).any()


def test_the_mean_interval_is_the_quantiles_of_the_means_over_the_rows_with_a_value():
    counts = np.array([[3, 0, 0], [0, 2, 1], [1, 1, 1], [0, 0, 3]])  # the first one holds no value
    means = [(2 * 6 + 9) / 3, (6 + 9) / 2, 9]
    expected = np.quantile(means, [0.25, 0.75])
    assert mean_interval(counts, np.array([np.nan, 6, 9]), level=0.5) == pytest.approx(expected)


@pytest.mark.parametrize("values", [[np.nan, np.nan, np.nan], [np.nan, 6, np.nan]])
def test_fewer_than_two_values_have_no_interval(values):
    assert mean_interval(np.ones((5, 3)), np.array(values)) is None


def test_where_clusters_differ_the_clustered_interval_alone_covers_the_mean_at_about_its_level():
    generator = np.random.default_rng(1)
    clusters = np.repeat(np.arange(14), 4)
    clustered, plain = [], []
    for repetition in range(200):
        values = generator.normal(size=14)[clusters] + generator.normal(scale=0.5, size=56)
        resamples = ClusteredResamples(clusters, resamples=200, seed=repetition)
        clustered.append(mean_interval(resamples.overall, values, level=0.9))
        plain.append(interval(np.mean, values, level=0.9, resamples=200, seed=repetition))
    coverage, too_low = (np.mean([lower <= 0 <= upper for lower, upper in ends]) for ends in (clustered, plain))
    assert 0.83 < coverage < 0.97
    assert too_low < 0.75
