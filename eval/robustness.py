"""Robustness to retrieval: what a system keeps as passages get more, noisier or reordered.

Every figure is a mean over questions of a number in [0, 1], made from that question's answers under
several conditions, so its interval has the question as the cluster. Which conditions vary what is
read from their names and from the passages shown. It knows nothing of files or pages.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from eval.conditions import Condition, parse_condition
from eval.journal import Prediction
from eval.statistics import Floats, rate_intervals

Cells = Mapping[tuple[str, str], Sequence[Prediction]]

METRICS = {
    "robustness": "area under the noise curves, mean over the kinds of noise",
    "noise-area": "area under the curve of exact match against the number of noisy passages",
    "no-degradation": "an answer with passages is never worse than the one without",
    "no-degradation:gold": "the same, where the gold passage is among them",
    "no-degradation:no-gold": "the same, where it is not",
    "size": "one more step of noise loses no right answer",
    "order": "the same passages in another order give the same verdict",
}


def robustness(
    cells: Cells, systems: Sequence[str], conditions: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows {system, metric, over, n, value, ci95} for every figure that the conditions allow.

    metric: a name of METRICS, `noise-area:KIND` for one kind of noise; over: the conditions it is
    made from; n: questions. Exact match decides what is right.
    """
    rows = []
    for system in systems:
        em = {c: np.array([p.em for p in cells[system, c]], dtype=np.float64) for c in conditions}
        shown = {c: [_shown(p) for p in cells[system, c]] for c in conditions}
        for metric, over, values in _figures(em, shown):
            # A question in which the comparison never arises has no value.
            held = values[~np.isnan(values)]
            if not len(held):
                continue
            rows.append(
                {
                    "system": system,
                    "metric": metric,
                    "over": over,
                    "n": len(held),
                    "value": float(held.mean()),
                    "ci95": list(rate_intervals(held[:, None])[0]),
                }
            )
    return rows


def noise_curves(conditions: Sequence[str]) -> dict[str, list[tuple[int, list[str]]]]:
    """Kind of noise -> (count, its conditions) from 0 up, for noise beside the gold passage.

    A curve starts at `clean`, so without it there is none.
    """
    if "clean" not in conditions:
        return {}
    counts: dict[str, dict[int, list[str]]] = {}
    for condition in map(parse_condition, conditions):
        if condition.gold and condition.noise is not None:
            of_kind = counts.setdefault(condition.noise, {0: ["clean"]})
            of_kind.setdefault(condition.count, []).append(condition.name)
    return {kind: sorted(of_kind.items()) for kind, of_kind in counts.items()}


def _figures(
    em: Mapping[str, Floats], shown: Mapping[str, Sequence[tuple[str, ...]]]
) -> list[tuple[str, list[str], Floats]]:
    """(metric, conditions, one value per question; not a number where a question has none)."""
    found: list[tuple[str, list[str], Floats]] = []
    curves = noise_curves(list(em))
    areas = {kind: _area(curve, em) for kind, curve in curves.items()}
    names = {kind: [name for _, held in curve for name in held] for kind, curve in curves.items()}
    if areas:
        over = list(dict.fromkeys(name for held in names.values() for name in held))
        found.append(("robustness", over, np.mean(list(areas.values()), axis=0)))
    found += [(f"noise-area:{kind}", names[kind], area) for kind, area in areas.items()]
    if "closed-book" in em:
        alone = em["closed-book"]
        parsed = [c for c in map(parse_condition, em) if c.name != "closed-book"]
        for metric, held in (
            ("no-degradation", parsed),
            ("no-degradation:gold", [c for c in parsed if c.gold]),
            ("no-degradation:no-gold", [c for c in parsed if not c.gold]),
        ):
            if held:
                kept = np.mean([em[c.name] >= alone for c in held], axis=0)
                found.append((metric, [c.name for c in held], kept))
    steps = _steps(list(map(parse_condition, em)), curves)
    if steps:
        kept = np.mean([em[more] >= em[less] for less, more in steps], axis=0)
        found.append(("size", list(dict.fromkeys(n for step in steps for n in step)), kept))
    over, same = _order(em, shown)
    if over:
        found.append(("order", over, same))
    return found


def _area(curve: Sequence[tuple[int, Sequence[str]]], em: Mapping[str, Floats]) -> Floats:
    """Area under one kind's curve by the trapezoidal rule, over its greatest count."""
    heights = [np.mean([em[name] for name in names], axis=0) for _, names in curve]
    counts = [count for count, _ in curve]
    total = np.zeros_like(heights[0])
    for i, (less, more) in enumerate(pairwise(counts)):
        total += (heights[i] + heights[i + 1]) / 2 * (more - less)
    area: Floats = total / counts[-1]
    return area


def _steps(
    parsed: Sequence[Condition], curves: Mapping[str, Sequence[tuple[int, Sequence[str]]]]
) -> list[tuple[str, str]]:
    """Pairs of conditions that differ by more noise of one kind, next to each other."""
    steps = [
        (less[0], more[0]) for curve in curves.values() for (_, less), (_, more) in pairwise(curve)
    ]
    alone: dict[tuple[str, bool], list[tuple[int, str]]] = defaultdict(list)
    for c in parsed:
        if c.noise and not c.gold:
            alone[c.noise, c.filled].append((c.count, c.name))
    for held in alone.values():
        steps += [(less, more) for (_, less), (_, more) in pairwise(sorted(held))]
    return steps


def _order(
    em: Mapping[str, Floats], shown: Mapping[str, Sequence[tuple[str, ...]]]
) -> tuple[list[str], Floats]:
    """Per question, share of pairs of conditions of equal passages, otherwise ordered, that agree.

    The share is over neighbours within a group of equal passages.
    """
    questions = len(next(iter(em.values())))
    values = np.full(questions, np.nan)
    used: dict[str, None] = {}
    for i in range(questions):
        groups: dict[tuple[str, ...], dict[tuple[str, ...], str]] = defaultdict(dict)
        for name in em:
            passages = shown[name][i]
            if len(passages) > 1:
                groups[tuple(sorted(passages))].setdefault(passages, name)
        agreed = [
            float(em[a][i] == em[b][i])
            for orders in groups.values()
            for a, b in pairwise(orders.values())
        ]
        if agreed:
            values[i] = np.mean(agreed)
            used |= dict.fromkeys(n for o in groups.values() if len(o) > 1 for n in o.values())
    return list(used), values


def _shown(prediction: Prediction) -> tuple[str, ...]:
    return tuple(str(passage["id"]) for passage in prediction.passages)
