"""Power: how many questions it takes to see a difference, and the smallest one that so many show.

Source: Connor, 1987, for paired proportions, here with the observed variance so that means over
conditions fit too.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from neurorit.eval.stats.intervals import normal_quantile

_POWER = 0.8


class Power(NamedTuple):
    """needed: questions for the asked difference; n: those there are; smallest: what n can show."""

    needed: int
    n: int
    smallest: float
    variance: float


def questions_needed(
    difference: ArrayLike,
    delta: float,
    *,
    alpha: float = 0.05,
    power: float = _POWER,
    clusters: Sequence[str] | None = None,
) -> Power:
    """From observed paired differences [n]: questions to see a true mean difference of `delta`.

    Two-sided test at `alpha`, seen with probability `power`. Under the null the mean is 0 and the
    second moment stays; under `delta` the variance is that less delta squared. Answers of 0 and 1
    cannot differ by `delta` with fewer than a share `delta` of differing questions, so the moment
    is at least that. Questions of one of the `clusters` go together: the variance is the one that
    a question has beside its neighbours (the design effect).
    Raises ValueError if delta is not in (0, 1] or there are no questions.
    """
    values = np.asarray(difference, dtype=np.float64)
    if not 0 < delta <= 1:
        raise ValueError(f"a difference to see lies in (0, 1], not {delta}")
    if not values.size:
        raise ValueError("there are no questions")
    n = len(values)
    centred = values - values.mean()
    whole = bool(np.isin(values, (-1.0, 0.0, 1.0)).all())
    spread = float((centred**2).mean())
    if clusters is not None and spread:
        sums: dict[str, float] = defaultdict(float)
        for label, value in zip(clusters, centred, strict=True):
            sums[label] += float(value)
        spread = max(spread, sum(v * v for v in sums.values()) / n)
    moment = max(spread, delta if whole else delta * delta)
    z_alpha, z_power = normal_quantile(1 - alpha / 2), normal_quantile(power)
    smallest = min(1.0, (z_alpha + z_power) * math.sqrt(max(spread, 1 / n) / n))
    return Power(_needed(moment, delta, z_alpha, z_power), n, smallest, moment)


def at_level(found: Power, delta: float, before: float, after: float) -> Power:
    """What `questions_needed` finds at the stricter level `after` where it found this at `before`.

    delta: the difference that was asked for, with probability 0.8.
    """
    z_power = normal_quantile(_POWER)
    old, new = normal_quantile(1 - before / 2), normal_quantile(1 - after / 2)
    smallest = min(1.0, found.smallest * (new + z_power) / (old + z_power))
    needed = _needed(found.variance, delta, new, z_power)
    return found._replace(needed=needed, smallest=smallest)


def _needed(moment: float, delta: float, z_alpha: float, z_power: float) -> int:
    root = z_alpha * math.sqrt(moment) + z_power * math.sqrt(moment - delta * delta)
    return max(1, math.ceil((root / delta) ** 2))
