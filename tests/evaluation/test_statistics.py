from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evaluation.bootstrap import ClusteredResamples, interval
from evaluation.statistics import (
    FLIPS,
    category_means,
    contrasts,
    holm,
    mean_with_interval,
    paired_difference,
    paired_test,
)

NONE = float("nan")
CATEGORIES = ["theft", "theft", "violence", "violence", "violence"]
RESAMPLES = ClusteredResamples(CATEGORIES)

scores = st.integers(1, 10) | st.none()
columns = st.lists(st.floats(-10, 10), min_size=5, max_size=5)
probabilities = st.lists(st.floats(0, 1, exclude_min=True), max_size=8)


def approx(value):
    return pytest.approx(value, abs=1e-9)


# Means


def test_the_mean_is_of_the_samples_with_a_value():
    estimate = mean_with_interval([2, NONE, 6, 7, NONE], RESAMPLES)
    assert (estimate.value, estimate.n) == (5, 3)


def test_the_interval_resamples_categories_and_then_samples():
    # Two categories that agree within and differ between: a resample's mean is 0, 3/5 or 1.
    lower, upper = mean_with_interval([0, 0, 1, 1, 1], RESAMPLES).interval
    assert (lower, upper) == (0, 1)
    # Two that agree between and differ within: only the samples' draw matters.
    even = ClusteredResamples(["theft", "theft", "violence", "violence"], resamples=10_000)
    estimate = mean_with_interval([0, 1, 0, 1], even)
    assert estimate.value == 0.5
    assert estimate.interval == (0, 1)  # 1/16 of all resamples hold only the one value, or only the other


@given(st.floats(-10, 10), st.lists(st.booleans(), min_size=5, max_size=5))
def test_a_constant_tells_nothing_of_its_spread(constant, scored):
    estimate = mean_with_interval(np.where(scored, constant, NONE), RESAMPLES)
    if not any(scored):
        assert estimate is None
    else:
        assert estimate == (approx(constant), None, sum(scored))


@given(columns.filter(lambda values: len(set(values)) > 1))
def test_the_interval_lies_among_the_values(values):
    lower, upper = mean_with_interval(values, RESAMPLES).interval
    assert min(values) - 1e-9 <= lower <= upper <= max(values) + 1e-9


def test_truth_values_have_a_share():
    assert mean_with_interval([True, False, False, False, True], RESAMPLES).value == 0.4


def test_one_category_alone_is_resampled_by_its_samples():
    values = np.random.default_rng(0).normal(size=50)
    lower, upper = mean_with_interval(values, ClusteredResamples(["theft"] * 50)).interval
    expected = 1.96 * values.std() / np.sqrt(50)
    assert (lower, upper) == pytest.approx((values.mean() - expected, values.mean() + expected), abs=0.05)


def test_one_sample_alone_has_a_mean_and_no_interval():
    alone = ClusteredResamples(["theft"])
    assert mean_with_interval([7], alone) == (7, None, 1)
    assert category_means([7], alone) == {"theft": (7, None, 1)}
    assert paired_difference([7], [4], alone) == (3, None, 1)


def test_a_column_without_values_has_no_mean():
    nothing = [NONE] * 5
    assert mean_with_interval(nothing, RESAMPLES) is None
    assert paired_difference(nothing, [1, 2, 3, 4, 5], RESAMPLES) is None
    assert category_means(nothing, RESAMPLES) == {}


# Categories


def test_each_category_has_the_mean_of_its_own_samples():
    means = category_means([1, 2, 5, NONE, 8], RESAMPLES)
    assert {category: (mean.value, mean.n) for category, mean in means.items()} == {
        "theft": (1.5, 2),
        "violence": (6.5, 2),
    }
    assert means["theft"].interval == (1, 2)
    assert means["violence"].interval == (5, 8)


def test_a_category_without_a_value_is_left_out():
    assert category_means([NONE, NONE, 5, 5, 5], RESAMPLES) == {"violence": (5, None, 3)}


def test_the_interval_of_a_category_is_that_of_its_samples_alone():
    values = np.random.default_rng(0).normal(size=80)
    categories = ["theft", "violence"] * 40
    estimate = category_means(values, ClusteredResamples(categories, resamples=40_000))["theft"]
    expected = interval(np.mean, values[::2], resamples=40_000)
    assert estimate.interval == pytest.approx(expected, abs=0.01)


# Paired differences


def test_a_pair_counts_where_both_have_a_value():
    difference = paired_difference([5, 5, NONE, 9, 9], [1, NONE, 3, 4, 5], RESAMPLES)
    assert (difference.value, difference.n) == (approx(13 / 3), 3)


@given(columns, st.floats(-5, 5))
def test_a_shift_of_every_sample_is_the_difference(values, shift):
    difference = paired_difference(np.add(values, shift), values, RESAMPLES)
    assert difference.value == approx(shift)
    assert difference.interval in (None, approx((shift, shift)))  # rounding may part the differences


@given(columns, columns)
def test_a_difference_has_the_other_sign_the_other_way_round(a, b):
    forth, back = paired_difference(a, b, RESAMPLES), paired_difference(b, a, RESAMPLES)
    assert forth.value == approx(-back.value)
    assert back.interval is None or forth.interval == approx((-back.interval[1], -back.interval[0]))
    assert paired_test(a, b) == paired_test(b, a)


@given(columns, columns)
def test_without_gaps_the_difference_is_that_of_the_means(a, b):
    means = [mean_with_interval(column, RESAMPLES).value for column in (a, b)]
    assert paired_difference(a, b, RESAMPLES).value == approx(means[0] - means[1])


def test_what_makes_a_sample_hard_for_both_cancels():
    generator = np.random.default_rng(0)
    difficulty = generator.normal(scale=3, size=140)
    resamples = ClusteredResamples(np.arange(140) % 14)
    ours, theirs = (difficulty + generator.normal(scale=0.2, size=140) + gain for gain in (0.3, 0))
    lower, upper = paired_difference(ours, theirs, resamples).interval
    alone = mean_with_interval(ours, resamples).interval
    assert 0 < lower < 0.3 < upper
    assert upper - lower < (alone[1] - alone[0]) / 5


# The test


@pytest.mark.parametrize(
    ("differences", "p_value"),
    [
        ([1, 1, 1], 2 / 8),
        ([1, 2, 3], 2 / 8),
        ([3, 1, -1], 6 / 8),  # of 5, 3, 3, 1 and their negatives, all but 1 and -1
        ([1, -1], 1),
        ([0.1, 0.2, -0.3], 1),  # which in floating point is a sum of 5e-17, and nearer to zero in another order
        ([0.3, 0.2, 0.1, NONE], 2 / 8),
        ([0, 0, 2, 2], 2 / 4),  # a zero has no sign
        ([0] * 100 + [2, 2], 2 / 4),  # so these are few, too
        ([0, 0], 1),
        ([5], 1),
        ([NONE, NONE], 1),
        ([1] * 13, 2 / 2**13),
    ],
)
def test_the_p_value_of_few_pairs_is_exact(differences, p_value):
    assert paired_test(differences, [0] * len(differences)) == p_value
    assert paired_test([0] * len(differences), differences) == p_value


@given(st.lists(st.tuples(scores, scores), min_size=1, max_size=8), st.sampled_from([1, 0.1, 1 / 3]))
def test_the_p_value_is_the_share_of_sign_assignments_at_least_as_far_from_zero(pairs, unit):
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    sums = [
        sum(sign * difference for sign, difference in zip(signs, differences, strict=True))
        for signs in product([1, -1], repeat=len(differences))
    ]
    expected = np.mean([abs(total) >= abs(sum(differences)) for total in sums])
    a, b = (np.array(column, dtype=float) * unit for column in zip(*pairs, strict=True))
    assert paired_test(a, b) == approx(expected)


@pytest.mark.parametrize(("wins", "losses"), [(15, 5), (60, 40), (21, 19), (10, 10)])
def test_the_p_value_of_many_equal_differences_is_that_of_the_sign_test(wins, losses):
    differences = [1] * wins + [-1] * losses + [0] * 7
    expected = stats.binomtest(wins, wins + losses).pvalue
    assert paired_test(differences, [0] * len(differences)) == pytest.approx(expected, abs=0.015)


def test_the_p_value_of_many_pairs_is_near_to_the_exact_one():
    differences = np.random.default_rng(0).normal(0.4, size=15)
    exact = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=2**15, vectorized=True
    ).pvalue
    assert paired_test(differences, np.zeros(15)) == pytest.approx(exact, abs=0.015)


@pytest.mark.parametrize("pairs", [14, 15, 16, 17, 200])
def test_the_p_value_of_many_pairs_is_never_zero(pairs):
    p_value = paired_test(np.arange(pairs) + 100, np.arange(pairs))
    assert 1 / (1 + FLIPS) <= p_value <= 10 / (1 + FLIPS)
    assert paired_test([1, -1] * pairs, [0, 0] * pairs) == 1


def test_a_seed_gives_its_own_p_value_again():
    differences = np.random.default_rng(0).normal(0.1, size=50)
    first, again = ([paired_test(differences, np.zeros(50), seed) for seed in range(4)] for _ in range(2))
    assert first == again
    assert len(set(first)) > 1
    assert first == pytest.approx([np.mean(first)] * 4, abs=0.03)


# Families of tests


def test_holm_by_hand():
    # In order .005 × 4, .01 × 3, .03 × 2, and .04, which may not be less than the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@given(probabilities)
def test_holm_keeps_the_order_and_lies_between_the_p_values_and_bonferronis(p_values):
    adjusted = holm(p_values)
    for one, corrected in zip(p_values, adjusted, strict=True):
        assert one <= corrected <= min(1, one * len(p_values))
        for other, beside in zip(p_values, adjusted, strict=True):
            assert one > other or corrected <= beside


def test_contrasts_hold_ours_against_each_other_method():
    values = {
        "vanilla": [1, 2, 3, 4, 5],
        "lance": [3, 5, 6, 6, NONE],
        "instruct": [9, 5, 6, NONE, 1],
        "repe": [NONE, NONE, NONE, NONE, 8],  # shares no sample with ours: no contrast, and none of the family
    }
    found = contrasts(values, "lance", RESAMPLES)
    assert [*found] == ["vanilla", "instruct"]
    assert found["vanilla"].difference == paired_difference(values["lance"], values["vanilla"], RESAMPLES)
    assert found["vanilla"].difference[::2] == (2.5, 4)
    assert found["vanilla"].p_value == 2 / 16
    assert found["vanilla"].adjusted == 4 / 16
    assert found["instruct"].difference[::2] == (-2, 3)
    assert (found["instruct"].p_value, found["instruct"].adjusted) == (1, 1)


def test_one_method_alone_has_no_contrast():
    assert contrasts({"lance": [1, 2, 3, 4, 5]}, "lance", RESAMPLES) == {}
