"""Percentile bootstrap intervals."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike


def interval(
    statistic: Callable[..., float], *columns: ArrayLike, level: float = 0.95, resamples: int = 1_000, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of `statistic(*columns)` when the rows are drawn anew with replacement.

    Args:
        statistic: a figure of one or more columns.
        columns: arrays of equal length, resampled together.
        level: the interval's mass, in (0, 1).
        resamples: how many draws.
        seed: of the draws.
    """
    generator = np.random.default_rng(seed)
    arrays = [np.asarray(column) for column in columns]
    rows = len(arrays[0])
    draws = (generator.integers(rows, size=rows) for _ in range(resamples))
    values = [statistic(*(array[draw] for array in arrays)) for draw in draws]
    lower, upper = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(lower), float(upper)
