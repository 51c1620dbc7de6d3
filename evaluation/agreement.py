"""How far judges, or one judge's repeats, agree on the same responses."""

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import cohen_kappa_score

from evaluation.judge import SCORES


def quadratic_kappa(first: ArrayLike, second: ArrayLike) -> float | None:
    """Cohen's kappa with quadratic weights (Cohen, 1968) of two judges' scores.

    Args:
        first: one judge's scores, whole numbers from 1 to 10; `None` or NaN where it has none.
        second: the other's, of the same responses.

    Returns:
        1 for perfect agreement, 0 for chance; `None` where it is undefined: no response has both scores, or all
        scores are one and the same.
    """
    both = np.array([first, second], dtype=float)  # (2, N)
    both = both[:, ~np.isnan(both).any(0)]
    if both.size == 0 or np.ptp(both) == 0:
        return None
    # Of the scores given alone, the weights would be by rank: 1 and 10 would lie as close as 1 and 2.
    return float(cohen_kappa_score(*both.astype(int), labels=list(SCORES), weights="quadratic"))


def krippendorff_alpha(scores: ArrayLike) -> float | None:
    """Krippendorff's alpha with the interval metric, (a - b)²: 1 - observed / expected disagreement.

    Krippendorff, Computing Krippendorff's Alpha-Reliability (2011). A response counts when it has two scores or more.

    Args:
        scores: of shape `(judges, responses)`; `None` or NaN where a judge has none.

    Returns:
        1 for perfect agreement, 0 for chance; `None` where it is undefined: no response has two scores, or all scores
        that count are one and the same.
    """
    table = np.array(scores, dtype=float)  # (judges, responses)
    counts = (~np.isnan(table)).sum(0)
    table, counts = table[:, counts > 1], counts[counts > 1]
    values = table[~np.isnan(table)]
    if values.size == 0 or np.ptp(values) == 0:
        return None
    # Over the ordered pairs of m values, the squared differences sum to 2 m Σ (v - mean)².
    within = np.nansum((table - np.nanmean(table, 0)) ** 2, 0)
    observed = (2 * counts * within / (counts - 1)).sum() / values.size
    expected = 2 * values.var(ddof=1)
    return float(1 - observed / expected)
