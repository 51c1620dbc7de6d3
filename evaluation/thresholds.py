"""The one cut that validation chooses."""

import numpy as np
from sklearn.metrics import precision_recall_curve


def best_balanced_threshold(score: np.ndarray, harmful: np.ndarray) -> float:
    """The cut on `score` with the best F1 when safe and harmful pairs weigh alike.

    The weights take the file's own mix of safe and harmful, which users' traffic doesn't share, out of the choice.

    Args:
        score: max_j d_j of each pair, of shape `(pairs,)`.
        harmful: whether each is harmful, of the same shape; both kinds occur.
    """
    weight = np.where(harmful, 1 / harmful.sum(), 1 / (~harmful).sum())
    precision, recall, cuts = precision_recall_curve(harmful, score, sample_weight=weight)
    f1 = 2 * precision * recall / (precision + recall).clip(min=1e-12)
    best = int(f1[:-1].argmax())
    # `precision_recall_curve` counts score >= cut, the detector counts d > τ: step half way down to the next score.
    below = score[score < cuts[best]]
    return float((cuts[best] + below.max()) / 2) if below.size else float(cuts[best] / 2)
