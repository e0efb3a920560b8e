"""Intervals and paired tests over questions.

Which of them the report uses was chosen by measured coverage: benchmarks/intervals.py.

Everything is resampled by cluster (a question), because answers to one question are not
independent. It knows nothing of metrics or systems: numbers in, numbers out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

Floats = NDArray[np.float64]
Interval = tuple[float, float]

RESAMPLES = 2_000
# One block of resampling weights holds at most this many numbers (64 MB).
_BLOCK = 8_000_000
# Up to so many different clusters are drawn by kind, which takes no time however many there are.
_FEW_KINDS = 256


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
) -> Interval:
    """Percentile bootstrap interval of the mean of `values` [n]; see bootstrap_intervals."""
    column = np.asarray(values, dtype=np.float64)[:, None]
    return bootstrap_intervals(column, clusters, resamples=resamples, seed=seed, level=level)[0]


def bootstrap_intervals(
    values: ArrayLike,
    clusters: Sequence[str] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> list[Interval]:
    """Intervals of the means of `values` [n, m], one per column, from the same resamples.

    clusters: n labels; rows with one label are drawn together. A column that is all 0 or all 1 has
    a bootstrap interval of no width, which would claim certainty: it gets the exact binomial one.
    Raises ValueError if there are no values.
    """
    table = np.asarray(values, dtype=np.float64)
    sums, counts = _by_cluster(table, clusters)
    tail = (1 - level) / 2
    low, high = np.quantile(
        _resampled_means(sums, counts, resamples, seed), [tail, 1 - tail], axis=0
    )
    margin = 1 - tail ** (1 / len(sums))
    intervals: list[Interval] = []
    for column, lo, hi in zip(table.T, low, high, strict=True):
        if np.all(column == 0):
            intervals.append((0.0, margin))
        elif np.all(column == 1):
            intervals.append((1 - margin, 1.0))
        else:
            intervals.append((float(lo), float(hi)))
    return intervals


def rate_intervals(
    values: ArrayLike, clusters: Sequence[str] | None = None, *, level: float = 0.95
) -> list[Interval]:
    """Wilson intervals of the means of `values` [n, m], each in [0, 1], one per column.

    A column of shares or of clustered answers counts as so many answers as its variance between
    clusters is worth (the effective sample size), so for plain 0 and 1 it is Wilson's own interval.
    It draws nothing, and near 0 and 1 it covers where a bootstrap falls short: see
    benchmarks/intervals.py. A column of 0 or 1 alone gets the exact binomial interval.
    Raises ValueError if there are no values or one lies outside [0, 1].
    """
    table = np.asarray(values, dtype=np.float64)
    sums, counts = _by_cluster(table, clusters)
    if table.min() < 0 or table.max() > 1:
        raise ValueError("a rate lies between 0 and 1")
    plain = clusters is None and bool(np.isin(table, (0.0, 1.0)).all())
    z = normal_quantile(0.5 + level / 2)
    if not plain and len(sums) > 1:
        # The variance is estimated, not implied by the mean: Student's quantile, c - 1 degrees.
        z = float(stdtrit(len(sums) - 1, 0.5 + level / 2)) * math.sqrt(len(sums) / (len(sums) - 1))
    margin = 1 - ((1 - level) / 2) ** (1 / len(sums))
    intervals: list[Interval] = []
    for column in range(table.shape[1]):
        mean = float(sums[:, column].sum() / counts.sum())
        residual = sums[:, column] - mean * counts
        variance = float((residual**2).sum()) / counts.sum() ** 2
        if np.all(table[:, column] == 0):
            intervals.append((0.0, margin))
        elif np.all(table[:, column] == 1):
            intervals.append((1 - margin, 1.0))
        else:
            # No variance at all (every value the same share) says nothing of more than n rows.
            least = mean * (1 - mean) / (len(table) * table.shape[0])
            intervals.append(_wilson(mean, mean * (1 - mean) / max(variance, least), z))
    return intervals


def paired_comparison(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Sequence[str] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> Comparison:
    """Paired bootstrap of mean(a - b), with a and b [n] about the same items in the same order.

    Where no item differs, the interval is the exact bound on the share of items that could.
    p is the smallest level at which the percentile interval excludes zero, never below
    2 / (resamples + 1). Raises ValueError if the shapes differ or are empty.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired values differ in shape: {first.shape} and {second.shape}")
    difference = first - second
    delta = float(difference.mean()) if difference.size else 0.0
    sums, counts = _by_cluster(difference[:, None], clusters)
    means = _resampled_means(sums, counts, resamples, seed)[:, 0]
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    if not difference.any():
        # No item differs: the share of items that could is bounded, not known to be zero.
        margin = 1 - tail ** (1 / len(sums))
        return Comparison(0.0, (-margin, margin), 1.0)
    # Float sums of equal parts differ in the last bits; such a mean is a tie with zero.
    below, above = int((means <= 1e-12).sum()), int((means >= -1e-12).sum())
    p = min(1.0, 2 * (1 + min(below, above)) / (resamples + 1))
    return Comparison(delta, (float(low), float(high)), p)


def mcnemar(a: ArrayLike, b: ArrayLike) -> float:
    """Exact two-sided McNemar p for binary outcomes a and b [n] of the same items."""
    first, second = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if first.shape != second.shape:
        raise ValueError(f"paired values differ in shape: {first.shape} and {second.shape}")
    only_a, only_b = int((first & ~second).sum()), int((~first & second).sum())
    total = only_a + only_b
    if total == 0:
        return 1.0
    # Sum of the binomial(total, 1/2) tail, in logarithms so that large counts do not overflow.
    tail = sum(
        math.exp(
            math.lgamma(total + 1)
            - math.lgamma(k + 1)
            - math.lgamma(total - k + 1)
            - total * math.log(2)
        )
        for k in range(min(only_a, only_b) + 1)
    )
    return min(1.0, 2 * tail)


def mcnemar_score(a: ArrayLike, b: ArrayLike) -> float:
    """McNemar's two-sided p by the score test without continuity correction.

    The exact test stays far under its level with few discordant pairs (false positives of 1 to 3 %
    at 0.05) and its mid-p form under it too; this one keeps to 4 to 6 % down to about five
    expected discordant pairs: benchmarks/intervals.py measures all three.
    """
    first, second = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if first.shape != second.shape:
        raise ValueError(f"paired values differ in shape: {first.shape} and {second.shape}")
    only_a, only_b = int((first & ~second).sum()), int((~first & second).sum())
    if only_a + only_b == 0:
        return 1.0
    return math.erfc(abs(only_a - only_b) / math.sqrt(2 * (only_a + only_b)))


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


def _wilson(mean: float, n: float, z: float) -> Interval:
    """Wilson's interval of a share seen in n (not always whole) answers."""
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def _resampled_means(sums: Floats, counts: Floats, resamples: int, seed: int) -> Floats:
    """Means [resamples, m] over clusters drawn with replacement."""
    kinds, held = np.unique(np.column_stack([counts, sums]), axis=0, return_counts=True)
    if len(kinds) <= _FEW_KINDS:
        # Equal clusters are interchangeable: how often each kind is drawn is all that matters.
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(len(sums), held / len(sums), size=resamples).astype(np.float64)
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
