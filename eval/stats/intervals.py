"""Intervals and paired tests over questions, chosen by measured coverage: benchmarks/intervals.py.

A rate has Wilson's interval, a paired difference a percentile bootstrap or, with clusters, the
sign-flip score test inverted; p is that test's. All of it is by cluster (at least a question),
because answers to one question are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln, stdtrit

Floats = NDArray[np.float64]
Interval = tuple[float, float]

RESAMPLES = 2_000
# One block of resampling weights holds at most this many numbers (64 MB).
_BLOCK = 8_000_000
# A quantile of so many deviations holds any mean.
_NO_BOUND = 1e6


class Comparison(NamedTuple):
    """a minus b: the mean difference, its 95 % interval and a two-sided p."""

    delta: float
    ci95: Interval
    p: float


def bootstrap_interval(
    values: ArrayLike,
    clusters: Sequence[str] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
    bounds: Interval = (0.0, 1.0),
) -> Interval:
    """Percentile bootstrap interval of the mean of `values` [n].

    clusters: n labels; values with one label are drawn together; bounds: what a value can be.
    Values that are all the same within them have a bootstrap interval of no width, which would
    claim certainty: they get the exact binomial bound on the share that could be otherwise, taken
    to lie at the bounds. Raises ValueError if there are no values.
    """
    column = np.asarray(values, dtype=np.float64)
    sums, counts = _by_cluster(column[:, None], clusters)
    tail = (1 - level) / 2
    if np.all(column == column[0]) and bounds[0] <= column[0] <= bounds[1]:
        return _of_one_value(float(column[0]), len(sums), tail, bounds)
    means = _resampled_means(sums, counts, resamples, seed)
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def rate_intervals(
    values: ArrayLike, clusters: Sequence[str] | None = None, *, level: float = 0.95
) -> list[Interval]:
    """Wilson intervals of the means of `values` [n, m], each in [0, 1], one per column.

    A column of shares or of clustered answers counts as so many answers as its variance between
    clusters is worth (the effective sample size), so for plain 0 and 1 it is Wilson's own interval.
    A column's interval is its own, whatever stands beside it. It draws nothing, and near 0 and 1 it
    covers where a bootstrap falls short: see benchmarks/intervals.py. A column of 0 or 1 alone gets
    the exact binomial interval. Clusters of like means are taken for no more than independent rows;
    those of unequal size for fewer equal ones (Kish's effective number), which Student's quantile
    asks for; and one cluster says nothing: its interval is [0, 1].
    Raises ValueError if there are no values or one lies outside [0, 1].
    """
    table = np.asarray(values, dtype=np.float64)
    sums, counts = _by_cluster(table, clusters)
    if table.min() < 0 or table.max() > 1:
        raise ValueError("a rate lies between 0 and 1")
    normal = student = normal_quantile(0.5 + level / 2)
    equal = float(counts.sum() ** 2 / (counts**2).sum())  # so many clusters of equal size
    if equal > 1:
        # A variance that is estimated, not implied by the mean: Student's quantile.
        student = float(stdtrit(equal - 1, 0.5 + level / 2)) * math.sqrt(equal / (equal - 1))
        student = min(student, _NO_BOUND)
    margin = 1 - ((1 - level) / 2) ** (1 / len(sums))
    intervals: list[Interval] = []
    for column in range(table.shape[1]):
        plain = clusters is None and bool(np.isin(table[:, column], (0.0, 1.0)).all())
        if len(sums) == 1 < len(table):
            intervals.append((0.0, 1.0))
            continue
        mean = float(sums[:, column].sum() / counts.sum())
        residual = sums[:, column] - mean * counts
        variance = float((residual**2).sum()) / counts.sum() ** 2
        if np.all(table[:, column] == 0):
            intervals.append((0.0, margin))
        elif np.all(table[:, column] == 1):
            intervals.append((1 - margin, 1.0))
        else:
            # No variance at all (every value the same share) says nothing of more than n rows.
            spread = student**2 * max(variance, mean * (1 - mean) / len(table) ** 2)
            if plain:
                spread = normal**2 * variance
            elif clusters is not None:
                alone = float(((table[:, column] - mean) ** 2).sum()) / len(table) ** 2
                spread = max(spread, normal**2 * alone)
            intervals.append(_wilson(mean, spread / (mean * (1 - mean))))
    return intervals


def ratio_interval(sums: ArrayLike, counts: ArrayLike, *, level: float = 0.95) -> Interval:
    """Interval of sum(sums) / sum(counts) over clusters, such as a loss a token over texts.

    sums, counts: [c], one for each cluster. The linearised ratio with Student's quantile of c - 1
    degrees, which few clusters need. Raises ValueError for fewer than two clusters.
    """
    total, size = np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if len(total) < 2:
        raise ValueError("one cluster has no interval")
    ratio = float(total.sum() / size.sum())
    spread = float(((total - ratio * size) ** 2).sum()) * len(total) / (len(total) - 1)
    half = float(stdtrit(len(total) - 1, 0.5 + level / 2)) * math.sqrt(spread) / float(size.sum())
    return ratio - half, ratio + half


def paired_comparison(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Sequence[str] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> Comparison:
    """Mean of a - b, for a and b [n] about the same items in the same order.

    p is that of `sign_flip_score`. The interval is a paired percentile bootstrap over items; over
    clusters it holds every mean that the test does not reject, for a bootstrap of few clusters of
    unequal size is too narrow. Where all items differ alike (or none does) it is the exact bound on
    the share of items, or clusters, that could do otherwise. Raises ValueError if the shapes differ
    or are empty.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired values differ in shape: {first.shape} and {second.shape}")
    difference = first - second
    if clusters is not None and np.ptp(difference):
        interval = _unrejected(difference, clusters, normal_quantile(0.5 + level / 2))
    else:
        interval = bootstrap_interval(
            difference, clusters, resamples=resamples, seed=seed, level=level, bounds=(-1.0, 1.0)
        )
    return Comparison(float(difference.mean()), interval, sign_flip_score(difference, clusters))


def sign_flip_score(difference: ArrayLike, clusters: Sequence[str] | None = None) -> float:
    """Two-sided p of a mean difference of 0, where under the null each cluster's sign is a coin's.

    The sum over clusters against the normal distribution with the variance that flipping signs
    gives it. For differences of 0 and 1 this is McNemar's score test. Flipping every sign (as
    `sign_flip_exact` and the exact McNemar test do) stays far under the level with few differing
    questions; this one keeps 0.04 to 0.06 at 0.05 and stays near or under 0.005 and 0.001, where
    Holm's correction looks: benchmarks/intervals.py.
    """
    error = null_error(difference, clusters)
    mean = float(np.mean(np.asarray(difference, dtype=np.float64)))
    return math.erfc(abs(mean) / (error * math.sqrt(2))) if error else 1.0


def null_error(difference: ArrayLike, clusters: Sequence[str] | None = None) -> float:
    """Standard error of the mean of `difference` [n] where each cluster's sign is a coin's."""
    values = np.asarray(difference, dtype=np.float64)
    sums = _by_cluster(values[:, None], clusters)[0]
    return math.sqrt(float((sums**2).sum())) / len(values)


def error_about(values: ArrayLike, mean: float, clusters: Sequence[str] | None) -> float:
    """The standard error of the mean of values that are `mean` on average, cluster by cluster."""
    table = np.asarray(values, dtype=np.float64)[:, None]
    sums, counts = _by_cluster(table, clusters)
    return math.sqrt(float(((sums[:, 0] - mean * counts) ** 2).sum())) / len(table)


def sign_flip_exact(
    difference: ArrayLike, clusters: Sequence[str] | None = None, *, unit: float = 1.0
) -> float:
    """The exact p of the same null: the share of all flips of the clusters' signs as far from 0.

    unit: what every difference is a multiple of, such as 1/4 for means of four answers. For
    differences of 0 and 1 it is the exact McNemar test. Raises ValueError for other values.
    """
    values = np.asarray(difference, dtype=np.float64)
    sums = _by_cluster(values[:, None], clusters)[0][:, 0] / unit
    steps = np.rint(sums).astype(np.int64)
    if np.abs(sums - steps).max() > 1e-6:
        raise ValueError(f"the differences are no multiples of {unit:g}")
    sizes, counts = np.unique(np.abs(steps[steps != 0]), return_counts=True)
    shares: Floats = np.ones(1)  # of the sums -S, ..., S that the flips so far give
    for size, count in zip(map(int, sizes), map(int, counts), strict=True):
        heads = np.arange(count + 1)
        ways = gammaln(count + 1) - gammaln(heads + 1) - gammaln(count - heads + 1)
        step = np.zeros(2 * size * count + 1)
        step[:: 2 * size] = np.exp(ways - count * math.log(2))
        shares = np.convolve(shares, step).astype(np.float64)
    reached = np.abs(np.arange(len(shares)) - len(shares) // 2) >= abs(int(steps.sum()))
    return min(1.0, float(shares[reached].sum()))


def normal_quantile(share: float) -> float:
    """The standard normal value below which `share` of the draws lie."""
    return NormalDist().inv_cdf(share)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's adjusted p for a family of tests, in the order given."""
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    adjusted = [1.0] * len(ps)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, ps[i] * (len(ps) - rank)))
        adjusted[i] = highest
    return adjusted


def _by_cluster(table: Floats, clusters: Sequence[str] | None) -> tuple[Floats, Floats]:
    """Sums [c, m] and row counts [c] of each cluster."""
    if table.ndim != 2 or len(table) == 0:
        raise ValueError("there are no values to resample")
    if clusters is None:
        return table, np.ones(len(table))
    if len(clusters) != len(table):
        raise ValueError(f"{len(clusters)} cluster labels for {len(table)} values")
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    counts = np.bincount(index).astype(np.float64)
    sums = np.zeros((len(counts), table.shape[1]))
    np.add.at(sums, index, table)
    return sums, counts


def _unrejected(difference: Floats, clusters: Sequence[str], z: float) -> Interval:
    """The means m for which the clusters' sums of difference - m pass the score test at z."""
    table, sizes = _by_cluster(difference[:, None], clusters)
    sums = table[:, 0]
    # (S - m N)^2 <= z^2 sum (s - m n)^2, a quadratic in m.
    square = sizes.sum() ** 2 - z * z * (sizes**2).sum()
    middle = sums.sum() * sizes.sum() - z * z * (sums * sizes).sum()
    rest = sums.sum() ** 2 - z * z * (sums**2).sum()
    if square <= 0:
        return -1.0, 1.0  # so few clusters reject nothing
    half = math.sqrt(max(0.0, middle**2 - square * rest))
    return max(-1.0, float(middle - half) / square), min(1.0, float(middle + half) / square)


def _of_one_value(value: float, n: int, tail: float, bounds: Interval) -> Interval:
    """The interval of a mean where all n clusters hold the same value."""
    margin = 1 - tail ** (1 / n)
    return value - margin * (value - bounds[0]), value + margin * (bounds[1] - value)


def _wilson(mean: float, ratio: float) -> Interval:
    """Wilson's interval of a share; ratio: z squared over the (not always whole) answers it has."""
    centre = (mean + ratio / 2) / (1 + ratio)
    half = math.sqrt(ratio * (mean * (1 - mean) + ratio / 4)) / (1 + ratio)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def _resampled_means(sums: Floats, counts: Floats, resamples: int, seed: int) -> Floats:
    """Means [resamples, 1] over clusters drawn with replacement."""
    kinds, repeats = np.unique(np.column_stack([counts, sums]), axis=0, return_counts=True)
    if len(kinds) * resamples <= _BLOCK:
        # Equal clusters are interchangeable: how often each kind is drawn is all that matters.
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(len(sums), repeats / len(sums), size=resamples).astype(np.float64)
        few: Floats = (drawn @ kinds[:, 1:]) / (drawn @ kinds[:, 0])[:, None]
        return few
    blocks = [
        (weights @ sums) / (weights @ counts)[:, None]
        for weights in _weights(len(counts), resamples, seed)
    ]
    return np.concatenate(blocks)


def _weights(clusters: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each cluster is drawn, [block, clusters] at a time: memory stays bounded."""
    rng = np.random.default_rng(seed)
    rows = max(1, min(resamples, _BLOCK // clusters))
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        drawn = rng.integers(0, clusters, size=(size, clusters))
        drawn += np.arange(size)[:, None] * clusters
        flat = np.bincount(drawn.ravel(), minlength=size * clusters)
        yield flat.reshape(size, clusters).astype(np.float64)
