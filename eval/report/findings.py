"""The report's plain sentences, each computed from its numbers and true of them.

A difference is "above" or "below" when its 95 % interval excludes zero, and is said to be no more
than chance can make among so many comparisons unless Holm's p is under 0.05; else it is said not to
be shown. Losses of the method are told as readily as its gains.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from neurorit.eval.conditions import POOLED, parse_condition
from neurorit.eval.metrics.settings import BASE, METHOD, NAMES


def write_findings(report: Mapping[str, Any]) -> list[str]:
    """Sentences from `results`, `pooled` and `comparisons`; the first is the headline."""
    cells = {(row["system"], row["condition"]): row for row in report["results"]}
    cells |= {(row["system"], row["condition"]): row for row in report["pooled"]}
    systems: Sequence[str] = report["systems"]
    sentences: list[str] = []
    pairs = [(a, b) for a, b in report["pairs"]]
    lead = [(METHOD, BASE)] if (METHOD, BASE) in pairs else pairs
    for a, b in lead:
        for condition in (POOLED, "clean"):
            row = _comparison(report, a, b, condition)
            if row is not None:
                sentences.append(_against(row, cells))
    for a, b in pairs:
        if a == METHOD and (a, b) not in lead:
            sentences += _against_rival(report, b)
    sentences += _robustness(report)
    unwanted = unwanted_refusals(report["results"])
    sentences += _refusals(report["conditions"], systems, cells, unwanted)
    sentences += _reading(report["conditions"], systems, cells, report["metric"])
    return sentences


def told_of(tuned: str) -> str:
    """A tuned model's name, with which method is the paper's where that is another."""
    return tuned if tuned == METHOD else f"{tuned} ({METHOD} is the paper's method)"


def unwanted_refusals(results: Iterable[Mapping[str, Any]]) -> str | None:
    """The figure of a report's `results` that counts unwanted refusals under `clean`.

    A refusal of what has no answer is wanted there too. None without `clean`, or where no question
    has an answer.
    """
    clean = next((row for row in results if row["condition"] == "clean"), None)
    if clean is None:
        return None
    name = "abstain_rate_answerable" if "abstain_rate_answerable" in clean else "abstain_rate"
    return name if clean[name] is not None else None


def percent(share: float) -> str:
    """0.6214 -> '62.1%'."""
    return f"{100 * share:.1f}%"


def points(share: float) -> str:
    """0.123 -> '+12.3'."""
    return f"{100 * share:+.1f}".replace("-", "\u2212")


def shown(row: Mapping[str, Any]) -> bool:
    """True if a comparison's difference holds up: interval off zero and Holm's p under 0.05."""
    low, high = row["ci95"]
    return bool((low > 0 or high < 0) and row["p_holm"] < 0.05)


def _comparison(report: Mapping[str, Any], a: str, b: str, condition: str) -> Any:
    for row in report["comparisons"]:
        place = (row["a"], row["b"], row["condition"], row["metric"])
        if place == (a, b, condition, report["metric"]):
            return row
    return None


def _against(row: Mapping[str, Any], cells: Mapping[tuple[str, str], Any]) -> str:
    condition = row["condition"]
    place = "with distractors among the passages" if condition == POOLED else f"on {condition}"
    metric = row["metric"]
    after, before = cells[row["a"], condition][metric], cells[row["b"], condition][metric]
    low, high = row["ci95"]
    what = "exact answers" if metric == "em" else NAMES[metric]
    numbers = (
        f"{percent(after)} against {percent(before)} {what} "
        f"(95 % interval of the difference {points(low)} to {points(high)})"
    )
    if shown(row) or low > 0 or high < 0:
        side = "above" if row["delta"] > 0 else "below"
        size = f"{abs(100 * row['delta']):.1f}"
        chance = "" if shown(row) else f", which among {row['family']} comparisons can be chance"
        return f"{row['a']} is {side} {row['b']} by {size} points {place}{chance}: {numbers}."
    return f"{row['a']} and {row['b']} cannot be told apart {place}: {numbers}."


def _against_rival(report: Mapping[str, Any], rival: str) -> list[str]:
    rows = [
        row
        for row in report["comparisons"]
        if (row["a"], row["b"], row["metric"]) == (METHOD, rival, report["metric"])
    ]
    lost = [row for row in rows if shown(row) and row["delta"] < 0]
    won = [row for row in rows if shown(row) and row["delta"] > 0]
    sentences = []
    if lost:
        sentences.append(f"{rival} beats {METHOD} {_list_deltas(lost)}.")
    if won:
        sentences.append(f"{METHOD} beats {rival} {_list_deltas(won)}.")
    open_rows = [row["condition"] for row in rows if not shown(row)]
    if open_rows:
        sentences.append(
            f"Between {METHOD} and {rival} no difference is shown on {_join(open_rows)}."
        )
    return sentences


def _list_deltas(rows: Sequence[Mapping[str, Any]]) -> str:
    parts = [
        f"on {row['condition']} by {abs(100 * row['delta']):.1f} points ({_span(row)})"
        for row in rows
    ]
    return _join(parts)


def _span(row: Mapping[str, Any]) -> str:
    low, high = sorted(abs(100 * bound) for bound in row["ci95"])
    return f"{low:.1f} to {high:.1f}"


def _robustness(report: Mapping[str, Any]) -> list[str]:
    rows = [
        row
        for row in report.get("robustness", ())
        if row["metric"] == "robustness" and row["value"] is not None
    ]
    if not rows:
        return []
    each = [
        f"{row['system']} {percent(row['value'])} "
        f"({100 * row['ci95'][0]:.1f} to {100 * row['ci95'][1]:.1f})"
        for row in rows
    ]
    return [f"Robustness, the mean area under the noise curves: {_join(each)}."]


def _refusals(
    conditions: Sequence[str],
    systems: Sequence[str],
    cells: Mapping[tuple[str, str], Any],
    unwanted: str | None,
) -> list[str]:
    sentences = []
    for name in conditions:
        condition = parse_condition(name)
        if condition.noise is None or condition.gold:
            continue
        rates = [f"{s} {percent(cells[s, name]['abstain_rate'])}" for s in systems]
        sentences.append(f"Refused when no passage holds the answer ({name}): {_join(rates)}.")
    if unwanted:
        rates = [f"{s} {percent(cells[s, 'clean'][unwanted])}" for s in systems]
        sentences.append(f"Refused although the answer is there (clean): {_join(rates)}.")
    return sentences


def _reading(
    conditions: Sequence[str],
    systems: Sequence[str],
    cells: Mapping[tuple[str, str], Any],
    metric: str,
) -> list[str]:
    sentences = []
    if "closed-book" in conditions:
        best = max(systems, key=lambda s: cells[s, "closed-book"][metric])
        sentences.append(
            f"Without passages the best system ({best}) gets "
            f"{percent(cells[best, 'closed-book'][metric])}: what lies above that was read."
        )
    return sentences


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
