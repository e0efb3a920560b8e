"""Differences between systems, paired by question, and what it takes to see one.

It knows numbers by system and condition, and nothing of answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from neurorit.eval.conditions import POOLED
from neurorit.eval.stats.intervals import (
    RESAMPLES,
    Floats,
    holm,
    null_error,
    paired_comparison,
    sign_flip_exact,
)
from neurorit.eval.stats.power import Power, at_level, questions_needed

Values = Mapping[str, Mapping[tuple[str, str], Floats]]
"""metric -> (system, condition) -> one value a question, all in the same order."""

ALPHA = 0.05
GAP = 0.05
# The figures that are read first get more draws.
_PRIMARY_RESAMPLES = 10_000


def compare_systems(
    values: Values,
    pairs: Sequence[tuple[str, str]],
    conditions: Sequence[str],
    clusters: Sequence[str] | None,
    *,
    pooled_over: int = 1,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Every pair under every condition by every metric, the first metric's rows first.

    Each metric is a family of Holm's of its own: the first is the one that claims rest on. p: the
    sign-flip score test by cluster, which for 0 and 1 is McNemar's; p_exact: of the exact test of
    the same null, None where values are no counts; se_null: the standard error under it.
    pooled_over: conditions in the pooled mean.
    """
    rows: list[dict[str, Any]] = []
    for number, (metric, by_cell) in enumerate(values.items()):
        family = [
            _row(a, b, condition, metric, by_cell, clusters, pooled_over, number, seed)
            for a, b in pairs
            for condition in conditions
        ]
        adjust(family)
        rows += family
    return rows


def adjust(family: Sequence[dict[str, Any]]) -> None:
    """Write Holm's p of one family into its rows, with the family's size."""
    for row, adjusted in zip(family, holm([row["p"] for row in family]), strict=True):
        row["p_holm"] = adjusted
        row["family"] = len(family)


def power_rows(
    by_cell: Mapping[tuple[str, str], Floats],
    metric: str,
    pairs: Sequence[tuple[str, str]],
    conditions: Sequence[str],
    clusters: Sequence[str] | None = None,
    *,
    delta: float = GAP,
) -> list[dict[str, Any]]:
    """For every pair and condition: what this many questions can see, and what `delta` needs.

    The variance of the paired difference is the one observed, by cluster; the level is that of
    Holm's first step over all these rows, for that is what a difference must pass.
    """
    family = len(pairs) * len(conditions)
    rows = []
    for a, b in pairs:
        for condition in conditions:
            power = power_of(by_cell[a, condition] - by_cell[b, condition], delta, family, clusters)
            rows.append({"a": a, "b": b, "condition": condition, "metric": metric} | power)
    return rows


def widen_family(rows: Sequence[dict[str, Any]], family: int) -> None:
    """Write into `power_rows` what Holm's first step over the larger `family` asks for instead."""
    for row in rows:
        found = Power(*(row[name] for name in Power._fields))
        alpha = ALPHA / max(1, family)
        row |= at_level(found, row["delta"], row["alpha"], alpha)._asdict() | {"alpha": alpha}


def power_of(
    difference: Floats, delta: float, family: int, clusters: Sequence[str] | None = None
) -> dict[str, Any]:
    """Questions needed at Holm's first step over `family` tests, and for a test alone."""
    alone = questions_needed(difference, delta, alpha=ALPHA, clusters=clusters)
    corrected = questions_needed(difference, delta, alpha=ALPHA / max(1, family), clusters=clusters)
    return (
        {"delta": delta}
        | corrected._asdict()
        | {"alpha": ALPHA / max(1, family), "needed_alone": alone.needed}
    )


def _row(
    a: str,
    b: str,
    condition: str,
    metric: str,
    by_cell: Mapping[tuple[str, str], Floats],
    clusters: Sequence[str] | None,
    pooled_over: int,
    number: int,
    seed: int,
) -> dict[str, Any]:
    first, second = by_cell[a, condition], by_cell[b, condition]
    resamples = RESAMPLES if number else _PRIMARY_RESAMPLES
    comparison = paired_comparison(first, second, clusters, resamples=resamples, seed=seed)
    unit = 1 / pooled_over if condition == POOLED else 1.0
    counts = metric in ("em", "match", "match-substring")
    binary = counts and condition != POOLED and clusters is None
    return {
        "a": a,
        "b": b,
        "condition": condition,
        "metric": metric,
        "delta": comparison.delta,
        "ci95": list(comparison.ci95),
        "p": comparison.p,
        "se_null": null_error(first - second, clusters),
        "p_exact": sign_flip_exact(first - second, clusters, unit=unit) if counts else None,
        "test": "mcnemar-score" if binary else "sign-flip-score",
        "n": len(first),
    }
