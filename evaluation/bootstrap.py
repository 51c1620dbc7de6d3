"""Percentile bootstrap intervals."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike


def interval(
    statistic: Callable[..., float],
    *columns: ArrayLike,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
    resamples: int = 1_000,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile interval of `statistic(*columns)` when the rows, or clusters of them, are drawn anew with
    replacement.

    Args:
        statistic: a figure of one or more columns.
        columns: arrays of equal length, resampled together.
        clusters: of each row its cluster, such as its prompt: rows of one are drawn together. Without it, each row is
            one of its own.
        level: the interval's mass, in (0, 1).
        resamples: how many draws.
        seed: of the draws.
    """
    generator = np.random.default_rng(seed)
    arrays = [np.asarray(column) for column in columns]
    names = np.arange(len(arrays[0])) if clusters is None else np.asarray(clusters)
    _, cluster, sizes = np.unique(names, return_inverse=True, return_counts=True)
    members = np.argsort(cluster, kind="stable")  # cluster after cluster
    ends = sizes.cumsum()
    values = []
    for _ in range(resamples):
        drawn = generator.integers(len(sizes), size=len(sizes))
        size = sizes[drawn]
        place = np.arange(size.sum()) - np.repeat(size.cumsum() - size, size)  # within its cluster
        rows = members[np.repeat(ends[drawn] - size, size) + place]
        values.append(statistic(*(array[rows] for array in arrays)))
    return _percentiles(values, level)


class ClusteredResamples:
    """Resamples of rows that come in clusters, drawn once: every column of these rows is resampled alike, so paired.

    Attributes:
        clusters: the cluster of each row.
        overall: how often a resample holds a row, of shape `(resamples, rows)`. In two stages: as many clusters as
            there are, with replacement; then, of each cluster drawn, as many rows as it has, with replacement.
        within: the same with the second stage alone, which keeps every cluster: for figures of a single one.

    Args:
        clusters: the cluster of each row, at least one row.
        resamples: how many.
        seed: of the draws.
    """

    def __init__(self, clusters: ArrayLike, resamples: int = 1_000, seed: int = 0):
        self.clusters = np.asarray(clusters)
        if not self.clusters.size:
            raise ValueError("there are no rows to resample.")
        generator = np.random.default_rng(seed)
        members = [np.flatnonzero(self.clusters == cluster) for cluster in np.unique(self.clusters)]
        count = len(members)
        chosen = generator.multinomial(count, np.full(count, 1 / count), size=resamples)
        self.overall = _draw_rows(generator, members, chosen)
        self.within = _draw_rows(generator, members, np.ones_like(chosen))


def mean_interval(counts: np.ndarray, values: np.ndarray, level: float = 0.95) -> tuple[float, float] | None:
    """The percentile interval of the mean over the rows that have a value.

    Args:
        counts: how often each resample holds a row, of shape `(resamples, rows)`. A resample of rows without a value
            has no mean and is left out.
        values: of shape `(rows,)`, NaN where a row has none.
        level: the interval's mass, in (0, 1).

    Returns:
        `None` where all values are equal, as one alone is: they say nothing of their spread.
    """
    present = ~np.isnan(values)
    if np.unique(values[present]).size < 2:
        return None
    sums, sizes = (counts @ np.column_stack([np.where(present, values, 0), present])).T
    return _percentiles(sums[sizes > 0] / sizes[sizes > 0], level)


def _draw_rows(generator: np.random.Generator, members: Sequence[np.ndarray], chosen: np.ndarray) -> np.ndarray:
    """How often each row is drawn, when cluster c is chosen `chosen[r, c]` times in resample r.

    Args:
        generator: of the draws.
        members: the rows of each cluster.
        chosen: of shape `(resamples, clusters)`.
    """
    resamples = len(chosen)
    counts = np.zeros((resamples, sum(map(len, members))))
    for rows, times in zip(members, chosen.T, strict=True):
        size = len(rows)
        resample = np.repeat(np.arange(resamples), times * size)
        drawn = resample * size + generator.integers(size, size=len(resample))
        counts[:, rows] = np.bincount(drawn, minlength=resamples * size).reshape(resamples, size)
    return counts


def _percentiles(figures: np.ndarray | list[float], level: float) -> tuple[float, float]:
    lower, upper = np.quantile(figures, [(1 - level) / 2, (1 + level) / 2])
    return float(lower), float(upper)
