"""What validation fixes after training: the scale that makes the highest risk a probability, and the cuts for F1."""

import numpy as np
from scipy.special import logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_recall_curve

LABEL_DOUBT = 1e-4  # share of labels taken for wrong: else pairs that a cut separates drive the scale to infinity


def fit_platt(score: np.ndarray, harmful: np.ndarray, origin: np.ndarray) -> tuple[float, float]:
    """Scale and shift of the logit that make `score` the probability of harm, under `balanced_weights`.

    Args:
        score: max_j d_j of each pair, of shape `(pairs,)`, in (0, 1).
        harmful: whether each is harmful, of the same shape; both kinds occur.
        origin: the name of the split that each comes from, of the same shape.

    Returns:
        (scale, shift): sigmoid(scale · logit(score) + shift) is calibrated.
    """
    weights = balanced_weights(harmful, origin)
    regression = LogisticRegression(C=np.inf).fit(
        np.tile(logit(score), 2)[:, None],
        np.concatenate([harmful, ~harmful]),
        sample_weight=np.concatenate([weights * (1 - LABEL_DOUBT), weights * LABEL_DOUBT]),
    )
    return float(regression.coef_[0, 0]), float(regression.intercept_[0])


def best_balanced_threshold(score: np.ndarray, positive: np.ndarray, harmful: np.ndarray) -> float:
    """The cut on `score` with the best F1 when safe and harmful pairs weigh alike.

    Args:
        score: d_j or max_j d_j of each pair, of shape `(pairs,)`.
        positive: what the score should find, of the same shape; both kinds occur.
        harmful: whether each pair is harmful, of the same shape; both kinds occur.
    """
    score = score.astype(np.float64)
    weights = balanced_weights(harmful, np.zeros(len(harmful)))
    precision, recall, cuts = precision_recall_curve(positive, score, sample_weight=weights)
    f1 = 2 * precision * recall / (precision + recall).clip(min=1e-12)
    best = int(f1[:-1].argmax())
    # `precision_recall_curve` counts score >= cut, the detector counts d > τ: step half way down to the next score.
    below = score[score < cuts[best]]
    return float((cuts[best] + below.max()) / 2) if below.size else float(cuts[best] / 2)


def balanced_weights(harmful: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Weights, with mean 1, under which safe and harmful pairs weigh alike, and so do the safe pairs of each origin.

    They take a file's own mix, which users' traffic doesn't share, out of a choice; and where easy harmless rows are
    many, they keep them from hiding the hard ones.
    """
    weights = harmful / harmful.sum()
    origins = np.unique(origin[~harmful])
    for name in origins:
        safe = ~harmful & (origin == name)
        weights[safe] = 1 / (len(origins) * safe.sum())
    return weights * len(harmful) / 2
