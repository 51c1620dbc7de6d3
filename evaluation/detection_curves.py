"""A detector's ROC and calibration curve, in points few enough for a JSON report."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score, roc_curve

CALIBRATION_BINS = 10


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


def _bin(risk: np.ndarray, harmful: np.ndarray) -> dict:
    bounds = binomtest(int(harmful.sum()), len(harmful)).proportion_ci(0.95, method="wilson")
    return {
        "n": len(risk),
        "risk": float(risk.mean()),
        "harmful": float(harmful.mean()),
        "interval": [float(bounds.low), float(bounds.high)],
    }
