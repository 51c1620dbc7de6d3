import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.detection_curves import calibration, errors_by_spread, roc

RISK = np.array([0.1, 0.4, 0.3, 0.6, 0.8, 0.9])
HARMFUL = np.array([False, False, False, True, False, True])


def test_the_curve_runs_from_no_flag_to_all():
    curve = roc(RISK, HARMFUL, (0.5,))
    assert (curve["fpr"][0], curve["detection"][0]) == (0, 0)
    assert (curve["fpr"][-1], curve["detection"][-1]) == (1, 1)


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    assert roc(RISK, HARMFUL, ())["auc"] == pytest.approx(7 / 8)


def test_a_pair_is_flagged_above_the_threshold():
    assert roc(RISK, HARMFUL, (0.3, 0.6))["thresholds"] == {"0.3": [0.5, 1], "0.6": [0.25, 0.5]}


pairs = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=300).filter(
    lambda rows: len({harmful for _, harmful in rows}) == 2
)


@given(pairs)
def test_the_curve_only_rises_and_is_short(rows):
    curve = roc(*map(np.array, zip(*rows, strict=True)), (), points=50)
    assert len(curve["fpr"]) == len(curve["detection"]) <= 50
    assert curve["fpr"] == sorted(curve["fpr"])
    assert curve["detection"] == sorted(curve["detection"])


def test_each_bin_has_its_mean_risk_and_its_share_of_harm():
    low, high = calibration(np.array([0.1, 0.3, 0.6, 0.8, 1.0]), np.array([0, 0, 1, 0, 1]).astype(bool), bins=2)
    assert (low["n"], low["risk"], low["harmful"]) == (2, pytest.approx(0.2), 0)
    assert (high["n"], high["risk"], high["harmful"]) == (3, pytest.approx(0.8), pytest.approx(2 / 3))


def test_a_bins_interval_is_wilsons():
    (entry,) = calibration(np.full(10, 0.5), np.arange(10) < 3)
    z, n, p = 1.959964, 10, 0.3
    centre, reach = (p + z**2 / (2 * n)), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert entry["interval"] == pytest.approx([(centre + sign * reach) / (1 + z**2 / n) for sign in (-1, 1)])


@given(pairs)
def test_the_bins_hold_every_pair_once(rows):
    risk, harmful = map(np.array, zip(*rows, strict=True))
    bins = calibration(risk, harmful)
    assert sum(entry["n"] for entry in bins) == len(rows)
    assert sum(entry["n"] * entry["harmful"] for entry in bins) == pytest.approx(harmful.sum())


def test_errors_are_counted_where_the_spread_is_widest_and_where_the_margin_is_smallest():
    spread = np.arange(20, 0, -1) / 100  # the first two pairs are the widest tenth
    margin = np.arange(20) / 20 + np.where(np.arange(20) < 2, 1, 0)  # the third and fourth lie nearest
    wrong = np.arange(20) < 3
    figures = errors_by_spread(spread, margin, wrong, groups=4)
    assert (figures["widest_tenth"]["n"], figures["widest_tenth"]["errors"]) == (2, 1)
    assert (figures["rest"]["n"], figures["rest"]["errors"]) == (18, pytest.approx(1 / 18))
    assert figures["smallest_margins"]["errors"] == 0.5
    assert [group["errors"] for group in figures["groups"]] == [0, 0, 0, 0.6]
    assert [group["spread"] for group in figures["groups"]] == pytest.approx([0.03, 0.08, 0.13, 0.18])


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_the_groups_hold_every_pair_and_every_error_once(rows):
    spread, margin, wrong = map(np.array, zip(*rows, strict=True))
    groups = errors_by_spread(spread, margin, wrong)["groups"]
    assert sum(group["n"] for group in groups) == len(rows)
    assert sum(group["n"] * group["errors"] for group in groups) == pytest.approx(wrong.sum())
    spreads = [group["spread"] for group in groups]
    assert all(low <= high + 1e-12 for low, high in zip(spreads, spreads[1:], strict=False))
