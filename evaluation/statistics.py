"""Means over a run's samples and paired comparisons of its methods, with intervals and tests.

All columns hold one value a sample, in the same order, NaN where a method has none (an answer that failed, an unscored
judgement); such a sample is left out of that column's figures, and of a pair's where either column lacks it. Intervals
are 95 % percentile bootstrap intervals over [`ClusteredResamples`] of the samples, which all columns share.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from evaluation.bootstrap import ClusteredResamples, mean_interval

FLIPS = 10_000  # sign flips drawn, or the most that are enumerated
ROUNDING = 1e-12  # of a sum, by the sum of its terms' magnitudes: sums that differ by less are ties


class Estimate(NamedTuple):
    """A mean over samples.

    Args:
        value: the mean.
        interval: its 95 % interval; `None` where all samples have one value.
        n: how many samples it is of, at least 1.
    """

    value: float
    interval: tuple[float, float] | None
    n: int


class Contrast(NamedTuple):
    """One method against another, on the samples that both have values for.

    Args:
        difference: the mean of ours minus theirs.
        p_value: two-sided, that there is none.
        adjusted: the same after Holm's correction for the family of contrasts.
    """

    difference: Estimate
    p_value: float
    adjusted: float


def mean_with_interval(values: ArrayLike, resamples: ClusteredResamples) -> Estimate | None:
    """The mean of a column, `None` of one without any value.

    The interval is of categories drawn with replacement, then samples with replacement within each one drawn: it is
    about other categories as well as other prompts. With one category only, it is about other prompts.

    Args:
        values: of shape `(samples,)`.
        resamples: with the samples' categories for clusters.
    """
    return _estimate(resamples.overall, np.asarray(values, dtype=float))


def category_means(values: ArrayLike, resamples: ClusteredResamples) -> dict[str, Estimate]:
    """The mean of a column in each category that has a value.

    The interval is of samples drawn with replacement within the category.

    Args:
        values: of shape `(samples,)`.
        resamples: with the samples' categories for clusters.
    """
    column = np.asarray(values, dtype=float)
    means = {}
    for category in np.unique(resamples.clusters):
        members = resamples.clusters == category
        estimate = _estimate(resamples.within[:, members], column[members])
        if estimate is not None:
            means[str(category)] = estimate
    return means


def paired_difference(a: ArrayLike, b: ArrayLike, resamples: ClusteredResamples) -> Estimate | None:
    """The mean of a - b, `None` without a sample that has both.

    The interval is as in [`mean_with_interval`]; a sample is drawn with both its values, so that what makes it hard for
    both methods cancels.

    Args:
        a: of shape `(samples,)`.
        b: of shape `(samples,)`.
        resamples: with the samples' categories for clusters.
    """
    return mean_with_interval(_subtract(a, b), resamples)


def paired_test(a: ArrayLike, b: ArrayLike, seed: int = 0) -> float:
    """The two-sided p-value of the mean of a - b, by sign flips (Fisher's randomisation test for pairs).

    Without a difference between the methods, each sample's a - b could as well have had the other sign. The p-value is
    the share of sign assignments whose mean is at least as far from zero as the one observed, ties included: of all of
    them where they are no more than `FLIPS`, else of the observed one and `FLIPS` drawn ones, so that it is never 0.
    Samples are flipped one by one: unlike the intervals, the test is about these categories only.

    Args:
        a: of shape `(samples,)`.
        b: of shape `(samples,)`.
        seed: of the draws.

    Returns:
        A number in (0, 1]; 1 also without a sample that has both values.
    """
    differences = _subtract(a, b)
    nonzero = differences[~np.isnan(differences) & (differences != 0)]  # no flip changes a zero
    farthest = np.abs(nonzero.sum()) - ROUNDING * np.abs(nonzero).sum()
    if 2**nonzero.size <= FLIPS:
        return float(np.mean(np.abs(_signed_sums(nonzero)) >= farthest))
    as_far = np.abs(_draw_signed_sums(nonzero, seed)) >= farthest
    return float((1 + as_far.sum()) / (1 + FLIPS))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values after Holm's step-down correction for a family of tests, in the order given (Holm, 1979)."""
    order = np.argsort(p_values)
    factors = np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(np.asarray(p_values)[order] * factors), 1)
    return adjusted.tolist()


def contrasts(
    values: Mapping[str, ArrayLike], ours: str, resamples: ClusteredResamples, seed: int = 0
) -> dict[str, Contrast]:
    """One method against each other that shares a sample with it; they are one family for Holm's correction.

    Args:
        values: of each method, of shape `(samples,)`.
        ours: the method that the others are held against.
        resamples: with the samples' categories for clusters.
        seed: of the tests' draws.
    """
    others = {method: column for method, column in values.items() if method != ours}
    paired = {method: paired_difference(values[ours], column, resamples) for method, column in others.items()}
    differences = {method: difference for method, difference in paired.items() if difference is not None}
    p_values = [paired_test(values[ours], others[method], seed) for method in differences]
    triples = zip(differences.values(), p_values, holm(p_values), strict=True)
    return {method: Contrast(*triple) for method, triple in zip(differences, triples, strict=True)}


def _estimate(counts: np.ndarray, values: np.ndarray) -> Estimate | None:
    present = values[~np.isnan(values)]
    if not present.size:
        return None
    return Estimate(float(present.mean()), mean_interval(counts, values), present.size)


def _subtract(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    return np.asarray(a, dtype=float) - np.asarray(b, dtype=float)


def _signed_sums(terms: np.ndarray) -> np.ndarray:
    """The sums under every assignment of signs: `(..., n)` to `(..., 2**n)`."""
    sums = np.zeros((*terms.shape[:-1], 1))
    for term in np.moveaxis(terms, -1, 0)[..., None]:
        sums = np.concatenate([sums + term, sums - term], axis=-1)
    return sums


def _draw_signed_sums(terms: np.ndarray, seed: int) -> np.ndarray:
    """The sums under `FLIPS` random assignments of signs; a random byte gives eight terms their signs at once."""
    eights = np.pad(terms, (0, -terms.size % 8)).reshape(-1, 8)
    signs = np.random.default_rng(seed).integers(256, size=(FLIPS, len(eights)), dtype=np.uint8)
    return _signed_sums(eights)[np.arange(len(eights)), signs].sum(axis=1)
