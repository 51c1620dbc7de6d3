import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.detection_curves import calibration, roc

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
