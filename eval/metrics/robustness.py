"""Robustness to retrieval: what a system keeps as passages get more, noisier or reordered.

Every figure is a mean over questions of a number in [0, 1], made from that question's answers under
several conditions, so its interval has the question as the cluster. What is kept can only be lost
where it was there: no-degradation, size and order count the questions that the system has right to
begin with, else one that is always wrong would be perfectly robust. Which conditions vary what is
read from their names and from the passages shown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import trapezoid

from neurorit.eval.conditions import Condition, parse_condition
from neurorit.eval.predictions import Prediction
from neurorit.eval.stats.intervals import Floats, rate_intervals

Bools = NDArray[np.bool_]
Cells = Mapping[tuple[str, str], Sequence[Prediction]]

METRICS = {
    "robustness": "area under the noise curves, mean over the kinds of noise",
    "noise-area": "area under the curve of accuracy against the number of noisy passages",
    "no-degradation": "what is right without passages stays right with them",
    "no-degradation:gold": "the same, where the gold passage is among them",
    "no-degradation:no-gold": "the same, where it is not",
    "size": "what is right stays right with one more step of noise",
    "order": "what is right stays right with the same passages in another order",
    "query": "what is right stays right with the question put otherwise",
}
# From here on a graded score counts as a right answer.
_RIGHT = 0.5


def robustness(
    cells: Cells,
    systems: Sequence[str],
    conditions: Sequence[str],
    values: Mapping[tuple[str, str], Floats] | None = None,
    score: str = "em",
    clusters: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Rows {system, metric, over, n, value, ci95, score} for every figure the conditions allow.

    values: (system, condition) -> the score of each question, by which `score` is named; exact
    match without them. metric: a name of METRICS, `noise-area:KIND` for one kind of noise; over:
    the conditions it is made from; n: questions that count; where none does (nothing was right to
    begin with) value and ci95 are None. no-degradation also has `published`: the share over all
    questions that passages did not make worse (Cao et al., 2025), which wrong answers raise.
    """
    rows = []
    for system in systems:
        scores = {
            c: np.array([p.em for p in cells[system, c]], dtype=np.float64)
            if values is None
            else values[system, c]
            for c in conditions
        }
        shown = {c: [_shown(p) for p in cells[system, c]] for c in conditions}
        for metric, over, figures in _figures(scores, shown):
            row: dict[str, Any] = {"system": system, "metric": metric, "over": over}
            row |= {"score": score} | _mean(figures, clusters)
            if metric.startswith("no-degradation"):
                alone = scores["closed-book"]
                never = np.mean([scores[c] >= alone for c in over], axis=0)
                row["published"] = _mean(never, clusters)
            rows.append(row)
    return rows


def _mean(figures: Floats, clusters: Sequence[str] | None) -> dict[str, Any]:
    """n, value and ci95 over the questions that have a figure."""
    counted = ~np.isnan(figures)
    kept = figures[counted]
    if not len(kept):
        return {"n": 0, "value": None, "ci95": None}
    labels = [c for c, k in zip(clusters, counted, strict=True) if k] if clusters else None
    interval = list(rate_intervals(kept[:, None], labels)[0])
    return {"n": len(kept), "value": float(kept.mean()), "ci95": interval}


def noise_curves(conditions: Sequence[str]) -> dict[str, list[tuple[int, list[str]]]]:
    """Kind of noise -> (count, its conditions) from 0 up, for noise beside the gold passage.

    A curve starts at `clean`, so without it there is none.
    """
    if "clean" not in conditions:
        return {}
    counts: dict[str, dict[int, list[str]]] = {}
    for condition in map(parse_condition, conditions):
        if condition.gold and condition.noise is not None and not condition.query:
            of_kind = counts.setdefault(condition.noise, {0: ["clean"]})
            of_kind.setdefault(condition.count, []).append(condition.name)
    return {kind: sorted(of_kind.items()) for kind, of_kind in counts.items()}


def _figures(
    score: Mapping[str, Floats], shown: Mapping[str, Sequence[tuple[str, ...]]]
) -> list[tuple[str, list[str], Floats]]:
    """(metric, conditions, one value per question; not a number where a question has none)."""
    right = {name: column >= _RIGHT for name, column in score.items()}
    rows: list[tuple[str, list[str], Floats]] = []
    curves = noise_curves(list(score))
    areas = {kind: _area(curve, score) for kind, curve in curves.items()}
    names = {
        kind: [name for _, of_count in curve for name in of_count] for kind, curve in curves.items()
    }
    if areas:
        over = list(dict.fromkeys(name for of_kind in names.values() for name in of_kind))
        rows.append(("robustness", over, np.mean(list(areas.values()), axis=0)))
    rows += [(f"noise-area:{kind}", names[kind], area) for kind, area in areas.items()]
    parsed = [c for c in map(parse_condition, score) if not c.query]
    if "closed-book" in score:
        others = [c for c in parsed if c.name != "closed-book"]
        for metric, chosen in (
            ("no-degradation", others),
            ("no-degradation:gold", [c for c in others if c.gold]),
            ("no-degradation:no-gold", [c for c in others if not c.gold]),
        ):
            if chosen:
                kept = _kept(right, [("closed-book", c.name) for c in chosen])
                rows.append((metric, [c.name for c in chosen], kept))
    steps = _steps(parsed, curves)
    if steps:
        over = list(dict.fromkeys(n for step in steps for n in step))
        rows.append(("size", over, _kept(right, steps)))
    over, same = _order({c.name: right[c.name] for c in parsed}, shown)
    if over:
        rows.append(("order", over, same))
    put = [c for c in map(parse_condition, score) if c.query and c.bare in score]
    kinds = dict.fromkeys(c.query for c in put)
    for kind in (None, *kinds) if put else ():
        pairs = [(c.bare, c.name) for c in put if kind in (None, c.query)]
        over = list(dict.fromkeys(name for pair in pairs for name in pair))
        rows.append((f"query:{kind}" if kind else "query", over, _kept(right, pairs)))
    return rows


def _kept(right: Mapping[str, Bools], steps: Sequence[tuple[str, str]]) -> Floats:
    """Per question, of the steps (from, to) that start from a right answer the share that ends so.

    Not a number where none starts from one.
    """
    started = np.sum([right[a] for a, _ in steps], axis=0)
    ended = np.sum([right[a] & right[b] for a, b in steps], axis=0)
    return np.where(started > 0, ended / np.maximum(started, 1), np.nan)


def _area(curve: Sequence[tuple[int, Sequence[str]]], score: Mapping[str, Floats]) -> Floats:
    """Area under one kind's curve by the trapezoidal rule, over its greatest count."""
    heights = [np.mean([score[name] for name in names], axis=0) for _, names in curve]
    counts = [count for count, _ in curve]
    area: Floats = trapezoid(heights, counts, axis=0) / counts[-1]
    return area


def _steps(
    parsed: Sequence[Condition], curves: Mapping[str, Sequence[tuple[int, Sequence[str]]]]
) -> list[tuple[str, str]]:
    """Pairs of conditions that differ by more noise of one kind, next to each other."""
    steps = [
        (less[0], more[0]) for curve in curves.values() for (_, less), (_, more) in pairwise(curve)
    ]
    alone: dict[tuple[str, bool], dict[int, str]] = defaultdict(dict)
    for c in parsed:
        if c.noise and not c.gold:
            # Another order of as many passages is no more noise.
            alone[c.noise, c.filled].setdefault(c.count, c.name)
    for by_count in alone.values():
        steps += [(less, more) for (_, less), (_, more) in pairwise(sorted(by_count.items()))]
    return steps


def _order(
    right: Mapping[str, Bools], shown: Mapping[str, Sequence[tuple[str, ...]]]
) -> tuple[list[str], Floats]:
    """Of pairs of conditions of equal passages, otherwise ordered: the share that is right in both.

    Per question, over neighbours within a group of equal passages of which one is right at least.
    """
    questions = len(next(iter(shown.values())))
    values = np.full(questions, np.nan)
    used: dict[str, None] = {}
    for i in range(questions):
        groups: dict[tuple[str, ...], dict[tuple[str, ...], str]] = defaultdict(dict)
        for name in right:
            passages = shown[name][i]
            if len(passages) > 1:
                groups[tuple(sorted(passages))].setdefault(passages, name)
        pairs = [pair for orders in groups.values() for pair in pairwise(orders.values())]
        used |= dict.fromkeys(name for pair in pairs for name in pair)
        kept = [bool(right[a][i] and right[b][i]) for a, b in pairs if right[a][i] or right[b][i]]
        if kept:
            values[i] = np.mean(kept)
    return list(used), values


def _shown(prediction: Prediction) -> tuple[str, ...]:
    return tuple(str(passage["id"]) for passage in prediction.passages)
