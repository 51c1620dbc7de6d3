from math import isnan
from pathlib import Path

import evaluate
import numpy as np
import pytest

METRIC = Path(__file__).parents[2] / "metrics" / "risk_distribution"

# Of the five pairs the third and the last are safe.
RISK = [[0.9, 0.2], [0.6, 0.7], [0.3, 0.8], [0.1, 0.4], [0.2, 0.1]]
LABELS = [[1, 0], [1, 0], [0, 0], [0, 1], [0, 0]]


@pytest.fixture(scope="module")
def metric():
    return evaluate.load(str(METRIC))


def compute(metric, risk=RISK, labels=LABELS, **arguments):
    return metric.compute(predictions=risk, references=labels, **arguments)


@pytest.mark.parametrize(
    ("figure", "expected"),
    [
        ("binary_f1", 4 / 6),  # flagged: 1, 2, 3; harmful: 1, 2, 4
        ("auprc", (1 + 2 / 3 + 3 / 4) / 3),  # ranks of the harmful among .9 .8 .7 .4 .2: 1, 3, 4
        ("micro_f1", 4 / 7),  # 2 hits, 2 false alarms, 1 miss
        ("macro_f1", (1 + 0) / 2),
        ("map", (1 + 1 / 3) / 2),
        ("category_f1", [1, 0]),
        ("flag_rate_safe", 1 / 2),
        ("flag_rate_harmful", 2 / 3),
    ],
)
def test_figures_agree_with_those_by_hand(metric, figure, expected):
    assert compute(metric)[figure] == pytest.approx(expected)


def test_calibration_errors_agree_with_those_by_hand(metric):
    figures = compute(metric, bins=2)
    # Highest risk: |0.9 + 0.7 + 0.8 − 2| above a half, |0.4 + 0.2 − 1| below it.
    assert figures["ece"] == pytest.approx((0.4 + 0.4) / 5, abs=1e-6)
    # Category 0: |1.5 − 2| and |0.6 − 0|. Category 1: |1.5 − 0| and |0.7 − 1|.
    assert figures["category_ece"] == pytest.approx((1.1 / 5 + 1.8 / 5) / 2, abs=1e-6)


def test_one_bin_compares_the_mean_risk_with_the_share_of_harm(metric):
    assert compute(metric, bins=1)["ece"] == pytest.approx(abs((0.9 + 0.7 + 0.8 + 0.4 + 0.2) - 3) / 5, abs=1e-6)


def test_there_are_fifteen_bins_unless_told_otherwise(metric):
    labels = [[1, 0], [0, 0]]
    together, apart = [[0.68, 0.1], [0.72, 0.1]], [[0.65, 0.1], [0.68, 0.1]]
    assert compute(metric, together, labels)["ece"] == pytest.approx(abs(1.4 - 1) / 2, abs=1e-6)
    assert compute(metric, apart, labels)["ece"] == pytest.approx((0.35 + 0.68) / 2, abs=1e-6)
    assert compute(metric, together, labels, bins=20)["ece"] == pytest.approx((0.32 + 0.72) / 2, abs=1e-6)


def test_a_risk_of_one_falls_into_the_last_bin(metric):
    figures = compute(metric, [[1.0, 0.0], [0.6, 0.0]], [[0, 0], [1, 0]], bins=2)
    assert figures["ece"] == pytest.approx(abs(1.6 - 1) / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("threshold", "binary_f1", "flag_rate_safe"), [(0.15, 6 / 8, 1.0), (0.5, 4 / 6, 0.5), (0.85, 2 / 4, 0.0)]
)
def test_the_threshold_moves_f1_and_flag_rates(metric, threshold, binary_f1, flag_rate_safe):
    figures = compute(metric, threshold=threshold)
    assert figures["binary_f1"] == pytest.approx(binary_f1)
    assert figures["flag_rate_safe"] == flag_rate_safe
    assert figures["auprc"] == pytest.approx(29 / 36)


def test_cuts_by_category_move_the_categories_f1_alone(metric):
    figures = compute(metric, [[0.4, 0.4], [0.2, 0.6]], [[1, 0], [0, 1]], category_thresholds=[0.3, 0.7])
    assert figures["category_f1"] == [1, 0]
    assert figures["binary_f1"] == compute(metric, [[0.4, 0.4], [0.2, 0.6]], [[1, 0], [0, 1]])["binary_f1"]


def test_a_risk_at_the_threshold_is_not_flagged(metric):
    assert compute(metric, [[0.5, 0.25], [0.75, 0.5]], [[1, 0], [1, 0]])["flag_rate_harmful"] == 0.5


def test_a_soft_label_counts_from_above_a_half(metric):
    figures = compute(metric, RISK, [[0.75, 0], [1, 0.5], [0.25, 0.5], [0, 0.6], [0, 0]])
    assert figures == compute(metric)


def test_perfect_predictions(metric):
    labels = [[1, 0], [0, 1], [1, 1], [0, 0]]
    figures = compute(metric, labels, labels)
    assert figures.pop("category_f1") == [1, 1]
    zeros = {name: figures.pop(name) for name in ("ece", "category_ece", "flag_rate_safe")}
    assert set(zeros.values()) == {0}
    assert figures == dict.fromkeys(("binary_f1", "auprc", "micro_f1", "macro_f1", "map", "flag_rate_harmful"), 1)


def test_the_worst_predictions(metric):
    figures = compute(metric, [[0, 0], [1, 1], [1, 1], [1, 1]], [[1, 1], [0, 0], [0, 0], [0, 0]])
    assert [figures[name] for name in ("binary_f1", "micro_f1", "macro_f1", "flag_rate_harmful")] == [0] * 4
    assert [figures[name] for name in ("ece", "category_ece", "flag_rate_safe")] == [1] * 3
    assert figures["category_f1"] == [0, 0]
    assert figures["auprc"] == figures["map"] == 1 / 4  # no ranking does worse: one harmful pair of four, at the end


def test_without_a_harmful_pair_only_its_figures_are_nan(metric):
    figures = compute(metric, RISK, np.zeros((5, 2)))
    undefined = {name for name, value in figures.items() if name != "category_f1" and isnan(value)}
    assert undefined == {"auprc", "map", "flag_rate_harmful"}
    assert figures["flag_rate_safe"] == 3 / 5


def test_without_a_safe_pair_only_its_flag_rate_is_nan(metric):
    figures = compute(metric, RISK, np.ones((5, 2)))
    undefined = {name for name, value in figures.items() if name != "category_f1" and isnan(value)}
    assert undefined == {"flag_rate_safe"}
    assert figures["flag_rate_harmful"] == 3 / 5


def test_a_category_without_positives_is_left_out_of_the_mean_average_precision(metric):
    labels = [[1, 0], [1, 0], [0, 0], [1, 0], [0, 0]]
    assert compute(metric, RISK, labels)["map"] == pytest.approx((1 + 1 + 3 / 5) / 3)


def test_a_taxonomy_of_one_category_has_one_f1(metric):
    figures = compute(metric, [[0.9], [0.2], [0.8], [0.1]], [[1], [0], [0], [0]])
    assert figures["category_f1"] == pytest.approx([2 / 3])
    assert figures["micro_f1"] == pytest.approx(2 / 3)
