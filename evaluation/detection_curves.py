"""A detector's ROC, its calibration, and its errors by spread, in points few enough for a JSON report."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score, roc_curve

CALIBRATION_BINS = 10
SPREAD_GROUPS = 10


def roc(risk: np.ndarray, harmful: np.ndarray, thresholds: Sequence[float], points: int = 200) -> dict:
    """Detection against false alarms as the threshold falls, and where some thresholds stand on that curve.

    Args:
        risk: max_j d_j, of shape `(pairs,)`.
        harmful: whether each pair is, of the same shape; both kinds occur.
        thresholds: those to mark; a pair above one is flagged.
        points: most points of the curve that are kept.
    """
    fpr, detection, _ = roc_curve(harmful, risk)
    kept = np.unique(np.linspace(0, len(fpr) - 1, points).round().astype(int))
    marks = {
        str(threshold): [float((risk[kind] > threshold).mean()) for kind in (~harmful, harmful)]
        for threshold in thresholds
    }
    return {
        "fpr": fpr[kept].round(4).tolist(),
        "detection": detection[kept].round(4).tolist(),
        "auc": float(roc_auc_score(harmful, risk)),
        "thresholds": marks,
    }


def calibration(risk: np.ndarray, harmful: np.ndarray, bins: int = CALIBRATION_BINS) -> list[dict]:
    """How often pairs of a risk are harmful, with 95 % Wilson intervals; one entry for each bin that has pairs.

    Args:
        risk: max_j d_j, of shape `(pairs,)`, in [0, 1].
        harmful: whether each pair is, of the same shape.
        bins: how many of equal width.
    """
    place = np.minimum((risk * bins).astype(int), bins - 1)
    return [_bin(risk[place == index], harmful[place == index]) for index in np.unique(place)]


def errors_by_spread(spread: np.ndarray, margin: np.ndarray, wrong: np.ndarray, groups: int = SPREAD_GROUPS) -> dict:
    """Whether the errors lie where the detector says that it is unsure.

    Args:
        spread: of each pair's estimate, of shape `(pairs,)`.
        margin: between its risk and the threshold, of the same shape: the uncertainty that needs no Beta.
        wrong: whether its flag is wrong, of the same shape.
        groups: how many of equal size, by spread.

    Returns:
        The error rate of each group, the narrowest spreads first; and of the widest tenth, the rest, and the tenth
        with the smallest margin.
    """
    order, tenth = np.argsort(spread, kind="stable"), max(len(spread) // 10, 1)
    parts = [part for part in np.array_split(order, groups) if part.size]
    return {
        "groups": [{"spread": float(spread[part].mean()), **_error_rate(wrong[part])} for part in parts],
        "widest_tenth": _error_rate(wrong[order[-tenth:]]),
        "rest": _error_rate(wrong[order[:-tenth]]) if len(order) > tenth else None,
        "smallest_margins": _error_rate(wrong[np.argsort(margin, kind="stable")[:tenth]]),
    }


def _error_rate(wrong: np.ndarray) -> dict:
    return {"n": len(wrong), "errors": float(wrong.mean()), "interval": _wilson(wrong)}


def _bin(risk: np.ndarray, harmful: np.ndarray) -> dict:
    return {
        "n": len(risk),
        "risk": float(risk.mean()),
        "harmful": float(harmful.mean()),
        "interval": _wilson(harmful),
    }


def _wilson(flags: np.ndarray) -> list[float]:
    bounds = binomtest(int(flags.sum()), len(flags)).proportion_ci(0.95, method="wilson")
    return [float(bounds.low), float(bounds.high)]
