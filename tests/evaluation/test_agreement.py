import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evaluation.agreement import krippendorff_alpha, quadratic_kappa

# Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), example D: four observers, twelve units.
EXAMPLE = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]
TABLES = arrays(
    float,
    st.tuples(st.integers(2, 4), st.integers(1, 8)),
    elements=st.sampled_from([*map(float, range(1, 11)), np.nan]),
)
SCORE_LISTS = st.lists(st.tuples(st.integers(1, 10), st.integers(1, 10)), min_size=1, max_size=20)


def alpha_by_definition(table):
    """From the matrix of coincidences: every ordered pair of scores of a response, weighing 1 / (its scores - 1)."""
    coincidences = {}
    for unit in table.T:
        scores = [score for score in unit if not np.isnan(score)]
        for i, first in enumerate(scores):
            for j, second in enumerate(scores):
                if i != j:
                    weight = coincidences.get((first, second), 0) + 1 / (len(scores) - 1)
                    coincidences[first, second] = weight
    totals = {}
    for (first, _), weight in coincidences.items():
        totals[first] = totals.get(first, 0) + weight
    observed = sum(weight * (first - second) ** 2 for (first, second), weight in coincidences.items())
    expected = sum(totals[a] * totals[b] * (a - b) ** 2 for a in totals for b in totals)
    return None if expected == 0 else 1 - (sum(totals.values()) - 1) * observed / expected


def kappa_by_definition(pairs):
    observed = sum((a - b) ** 2 for a, b in pairs) / len(pairs)
    expected = sum((a - b) ** 2 for a, _ in pairs for _, b in pairs) / len(pairs) ** 2
    return None if expected == 0 else 1 - observed / expected


def test_alpha_of_the_published_example():
    assert krippendorff_alpha(EXAMPLE) == pytest.approx(0.849, abs=5e-4)


@given(TABLES)
def test_alpha_is_as_defined(table):
    assert krippendorff_alpha(table) == pytest.approx(alpha_by_definition(table))


@given(TABLES, st.randoms(use_true_random=False))
def test_alpha_knows_no_order_of_judges_or_responses(table, random):
    judges, responses = list(range(table.shape[0])), list(range(table.shape[1]))
    random.shuffle(judges)
    random.shuffle(responses)
    assert krippendorff_alpha(table[judges][:, responses]) == pytest.approx(krippendorff_alpha(table))


@given(TABLES, st.sampled_from([-2.0, 0.5, 3.0]), st.sampled_from([-4.0, 0.0, 7.0]))
def test_alpha_is_the_same_on_another_interval_scale(table, factor, shift):
    assert krippendorff_alpha(factor * table + shift) == pytest.approx(krippendorff_alpha(table))


@given(TABLES, st.integers(1, 10))
def test_a_response_with_one_score_says_nothing(table, score):
    alone = np.full((len(table), 1), np.nan)
    alone[0] = score
    assert krippendorff_alpha(np.hstack([table, alone])) == krippendorff_alpha(table)


def test_judges_that_agree_or_disagree_throughout():
    assert krippendorff_alpha([[1, 5, 10], [1, 5, 10]]) == quadratic_kappa([1, 5, 10], [1, 5, 10]) == 1
    assert krippendorff_alpha([[1, 10], [10, 1]]) < 0
    assert quadratic_kappa([1, 10], [10, 1]) == -1


def test_judges_that_score_at_random_agree_by_chance_only():
    first, second = np.random.default_rng(0).integers(1, 11, size=(2, 4_000))
    assert abs(krippendorff_alpha([first, second])) < 0.05
    assert abs(quadratic_kappa(first, second)) < 0.05


@given(SCORE_LISTS)
def test_kappa_is_as_defined(pairs):
    assert quadratic_kappa(*zip(*pairs, strict=True)) == pytest.approx(kappa_by_definition(pairs))


def test_kappa_weighs_by_the_scores_and_not_by_their_ranks():
    # Of three scores only, ranks would make 9 against 10 as bad as 1 against 9.
    first, second = [1, 9, 10, 10], [1, 10, 9, 10]
    assert quadratic_kappa(first, second) > 0.95


def test_kappa_leaves_out_what_one_judge_did_not_score():
    assert quadratic_kappa([1, None, 5, 9, None], [2, 7, 5, None, None]) == quadratic_kappa([1, 5], [2, 5])


@pytest.mark.parametrize("scores", [[[], []], [[None, 3], [4, None]], [[7, 7], [7, 7]], [[7, 7], [7, None]]])
def test_agreement_is_undefined_without_a_pair_or_with_one_and_the_same_score(scores):
    assert krippendorff_alpha(scores) is None
    assert quadratic_kappa(*scores) is None
