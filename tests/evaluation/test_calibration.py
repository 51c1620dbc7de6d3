import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evaluation.calibration import balanced_weights, best_balanced_threshold, fit_platt


def balanced_f1(score, harmful, cut):
    flagged = score > cut
    recall, false_alarms = flagged[harmful].mean(), flagged[~harmful].mean()
    return 2 * recall / (recall + false_alarms + 1)


def all_cuts(score):
    values = np.unique(score)
    return [values[0] / 2, *((values[1:] + values[:-1]) / 2), values[-1]]


pairs = st.lists(st.tuples(st.integers(1, 99), st.booleans()), min_size=2, max_size=30).filter(
    lambda rows: len({harmful for _, harmful in rows}) == 2
)


@given(pairs)
@example([(50, True), (50, False)])
@example([(10, True), (90, False)])
def test_no_other_cut_has_a_higher_balanced_f1(rows):
    score, harmful = np.array([row[0] for row in rows]) / 100, np.array([row[1] for row in rows])
    best = max(balanced_f1(score, harmful, cut) for cut in all_cuts(score))
    assert balanced_f1(score, harmful, best_balanced_threshold(score, harmful, harmful)) == pytest.approx(
        best, abs=1e-9
    )


@given(pairs)
def test_the_cut_keeps_clear_of_every_score(rows):
    score, harmful = np.array([row[0] for row in rows]) / 100, np.array([row[1] for row in rows])
    cut = best_balanced_threshold(score, harmful, harmful)
    assert 0 < cut < 1
    assert np.abs(score - cut).min() > 1e-3


def test_the_cut_stands_half_way_between_separated_kinds():
    score, harmful = np.array([0.1, 0.2, 0.6, 0.9]), np.array([False, False, True, True])
    assert best_balanced_threshold(score, harmful, harmful) == pytest.approx(0.4)


def test_where_all_is_best_flagged_the_cut_stands_below_the_lowest_score():
    assert best_balanced_threshold(np.array([0.4, 0.8]), *[np.array([True, False])] * 2) == pytest.approx(0.2)


def test_the_mix_of_safe_and_harmful_does_not_move_the_cut():
    score = np.array([0.1, 0.3, 0.5, 0.7, 0.2, 0.4, 0.6, 0.8])
    harmful = np.array([False] * 4 + [True] * 4)
    cut = best_balanced_threshold(score, harmful, harmful)
    for kind in (False, True):
        more = np.concatenate([np.repeat(np.arange(8)[harmful == kind], 50), np.arange(8)[harmful != kind]])
        assert best_balanced_threshold(score[more], harmful[more], harmful[more]) == pytest.approx(cut)


labelled_rows = st.lists(st.tuples(st.sampled_from(["labelled", "safe", "other"]), st.booleans()), max_size=30).map(
    lambda rows: [("labelled", True), ("safe", False), *rows]
)


def split(rows):
    return np.array([harmful for _, harmful in rows]), np.array([origin for origin, _ in rows])


@given(labelled_rows)
def test_weights_make_both_kinds_count_alike_at_mean_one(rows):
    harmful, origin = split(rows)
    weights = balanced_weights(harmful, origin)
    assert weights[harmful].sum() == pytest.approx(weights[~harmful].sum())
    assert weights.mean() == pytest.approx(1)
    assert len(set(weights[harmful])) == 1


@given(labelled_rows)
def test_the_safe_pairs_of_each_origin_weigh_alike(rows):
    harmful, origin = split(rows)
    weights = balanced_weights(harmful, origin)
    sums = [weights[~harmful & (origin == name)].sum() for name in set(origin[~harmful])]
    assert sums == pytest.approx([sums[0]] * len(sums))


def test_weights_by_hand():
    harmful = np.array([True, True, False, False, False, False])
    origin = np.array(["labelled", "labelled", "labelled", "safe", "safe", "safe"])
    assert balanced_weights(harmful, origin).tolist() == pytest.approx([1.5, 1.5, 1.5, 0.5, 0.5, 0.5])


def logit(probability):
    return np.log(probability) - np.log1p(-probability)


def sigmoid(value):
    return 1 / (1 + np.exp(-value))


# Groups of 20 pairs whose share of harm is known; over all of them half the pairs are harmful.
SHARES = np.array([0.1, 0.25, 0.5, 0.75, 0.9])
PROBABILITY = np.repeat(SHARES, 20)
HARMFUL = np.concatenate([np.arange(20) < round(20 * share) for share in SHARES])
ONE_ORIGIN = np.full(100, "labelled")


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (2.0, 0.0), (0.5, 1.0), (3.0, -2.0)])
def test_the_scale_and_shift_that_spoilt_the_probabilities_are_found(scale, shift):
    score = sigmoid((logit(PROBABILITY) - shift) / scale)
    assert fit_platt(score, HARMFUL, ONE_ORIGIN) == pytest.approx((scale, shift), abs=2e-3)


def test_scaling_does_not_depend_on_the_mix_of_safe_and_harmful():
    score = sigmoid(logit(PROBABILITY) / 2 + 0.3)
    more_safe = np.concatenate([np.arange(100), *[np.arange(100)[~HARMFUL]] * 5])
    expected = fit_platt(score, HARMFUL, ONE_ORIGIN)
    assert fit_platt(score[more_safe], HARMFUL[more_safe], ONE_ORIGIN[more_safe]) == pytest.approx(expected, abs=2e-3)


def test_many_easy_safe_pairs_of_another_origin_scale_as_few_do():
    def fit(easy_rows):
        easy = sigmoid(np.linspace(-4, -2, 10)).repeat(easy_rows)
        return fit_platt(
            np.concatenate([PROBABILITY, easy]),
            np.concatenate([HARMFUL, np.zeros(len(easy), dtype=bool)]),
            np.concatenate([ONE_ORIGIN, np.full(len(easy), "safe")]),
        )

    assert fit(50) == pytest.approx(fit(1), abs=2e-3)
    assert fit(1) != pytest.approx(fit_platt(PROBABILITY, HARMFUL, ONE_ORIGIN), abs=2e-2)


def test_scaling_keeps_the_order_of_a_useful_score():
    generator = np.random.default_rng(0)
    harmful = generator.random(400) < 0.3
    score = sigmoid(generator.normal(size=400) + 2 * harmful)
    origin = np.where(generator.random(400) < 0.5, "labelled", "safe")
    scale, shift = fit_platt(score, harmful, origin)
    assert scale > 0
    calibrated = sigmoid(scale * logit(score) + shift)
    weights = balanced_weights(harmful, origin)
    assert np.average(calibrated, weights=weights) == pytest.approx(0.5, abs=1e-3)
