"""Several data sets together: means over the sets, and one family of tests over all of them.

A mean over sets gives each set the same weight, however many questions it has. It knows reports
only, and asks and reads nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from neurorit.eval.metrics.settings import NAMES, title_of
from neurorit.eval.report.findings import write_findings
from neurorit.eval.report.tables import markdown_table
from neurorit.eval.stats.paired import adjust, widen_family

Reports = Mapping[str, dict[str, Any]]


def join_families(reports: Reports) -> None:
    """Correct the comparisons of all reports together, and write their power and findings anew.

    A metric's rows of every data set are one family of Holm's: six sets that are corrected each
    for itself would find six times as many differences that are not there.
    """
    by_metric: dict[str, list[dict[str, Any]]] = {}
    for report in reports.values():
        for row in report["comparisons"]:
            by_metric.setdefault(row["metric"], []).append(row)
    for family in by_metric.values():
        adjust(family)
    for report in reports.values():
        widen_family(report["power"], len(by_metric.get(report["metric"], ())))
        report["family_over"] = list(reports)
        report["findings"] = write_findings(report)


def macro_average(reports: Reports) -> dict[str, Any]:
    """Means over the data sets: `results` by system and condition, `comparisons` by pair.

    Conditions that one of the sets lacks are left out. An interval of a mean is made from those of
    the sets (MOVER), which are independent; p of a mean difference is the sign-flip score test
    stratified by set, with Holm's correction over the rows of a metric.
    Source: Zou and Donner, 2008, for the intervals.
    """
    sets = list(reports.values())
    results = [
        row
        for key in _shared([[(r["system"], r["condition"]) for r in _rows(one)] for one in sets])
        if (row := _mean_row(key, [_find(_rows(one), key) for one in sets]))
    ]
    keys = [
        [(r["a"], r["b"], r["condition"], r["metric"]) for r in one["comparisons"]] for one in sets
    ]
    comparisons = [
        _mean_difference(key, [_find_pair(one["comparisons"], key) for one in sets])
        for key in _shared(keys)
    ]
    for metric in NAMES:
        adjust([row for row in comparisons if row["metric"] == metric])
    return {
        "schema": 1,
        "datasets": {name: one["results"][0]["n"] for name, one in reports.items()},
        "metric": sets[0]["metric"],
        "systems": sets[0]["systems"],
        "results": results,
        "comparisons": comparisons,
    }


def macro_markdown(macro: Mapping[str, Any]) -> str:
    """The primary metric's means as a Markdown table, and the differences."""
    metric, systems = macro["metric"], macro["systems"]
    sets = ", ".join(f"{name} ({n})" for name, n in macro["datasets"].items())
    intro = (
        f"# Means over {len(macro['datasets'])} data sets\n\n{sets}.\n\n"
        f"{title_of(metric)} in percent with 95 % intervals; every set weighs the same.\n\n"
    )
    cells = {(r["condition"], r["system"]): r for r in macro["results"] if metric in r}
    rows = [
        [condition, *(_mean_with_interval(cells[condition, system], metric) for system in systems)]
        for condition in dict.fromkeys(condition for condition, _ in cells)
    ]
    differences = [
        [
            f"{row['a']} - {row['b']}",
            row["condition"],
            f"{100 * row['delta']:+.1f}",
            " to ".join(f"{100 * bound:+.1f}" for bound in row["ci95"]),
            f"{row['p_holm']:.3g}",
        ]
        for row in macro["comparisons"]
        if row["metric"] == metric
    ]
    text = intro + markdown_table(["condition", *systems], rows)
    if differences:
        head = ["difference", "condition", "points", "95 %", "p (Holm)"]
        text += "\n" + markdown_table(head, differences, left=2)
    return text


def _mean_with_interval(row: Mapping[str, Any], metric: str) -> str:
    low, high = row["ci95"][metric]
    return f"{100 * row[metric]:.1f} ({100 * low:.1f}\u2013{100 * high:.1f})"


def _mean_row(key: tuple[str, ...], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    mean: dict[str, Any] = {"system": key[0], "condition": key[1], "n": sum(r["n"] for r in rows)}
    mean["ci95"] = {}
    for metric in NAMES:
        if all(row.get(metric) is not None for row in rows):
            values = [row[metric] for row in rows]
            mean[metric] = sum(values) / len(values)
            mean["ci95"][metric] = _mover(values, [row["ci95"][metric] for row in rows])
    return mean


def _mean_difference(key: tuple[str, ...], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    deltas = [row["delta"] for row in rows]
    spread = math.sqrt(sum(row["se_null"] ** 2 for row in rows))
    return {
        **dict(zip(("a", "b", "condition", "metric"), key, strict=True)),
        "delta": sum(deltas) / len(deltas),
        "ci95": _mover(deltas, [row["ci95"] for row in rows]),
        "p": math.erfc(abs(sum(deltas)) / (spread * math.sqrt(2))) if spread else 1.0,
        "test": "stratified-sign-flip-score",
        "n": sum(row["n"] for row in rows),
    }


def _mover(values: Sequence[float], intervals: Sequence[Sequence[float]]) -> list[float]:
    """The interval of the mean of independent estimates, from their own intervals."""
    mean = sum(values) / len(values)
    below = math.hypot(*(v - low for v, (low, _) in zip(values, intervals, strict=True)))
    above = math.hypot(*(high - v for v, (_, high) in zip(values, intervals, strict=True)))
    return [mean - below / len(values), mean + above / len(values)]


def _rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*report["results"], *report["pooled"]]


def _shared(keys: Sequence[Sequence[tuple[str, ...]]]) -> list[tuple[str, ...]]:
    return [key for key in keys[0] if all(key in others for others in keys[1:])]


def _find(rows: Sequence[dict[str, Any]], key: tuple[str, ...]) -> dict[str, Any]:
    return next(row for row in rows if (row["system"], row["condition"]) == key)


def _find_pair(rows: Sequence[dict[str, Any]], key: tuple[str, ...]) -> dict[str, Any]:
    return next(r for r in rows if (r["a"], r["b"], r["condition"], r["metric"]) == key)
