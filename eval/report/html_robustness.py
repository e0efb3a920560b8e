"""The report page's robustness: its measures, and accuracy by kind and count of noise.

Layout only, like `report.html`, whose sections these are; every figure stands with its interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from neurorit.eval.conditions import parse_condition
from neurorit.eval.metrics.robustness import METRICS, noise_curves
from neurorit.eval.metrics.settings import title_of
from neurorit.eval.report.charts import css_class

_TITLES = {
    "robustness": "Robustness",
    "noise-area": "Area",
    "no-degradation": "Kept from closed-book",
    "no-degradation:gold": "\u2026 gold passage there",
    "no-degradation:no-gold": "\u2026 gold passage missing",
    "size": "Size robustness",
    "order": "Order robustness",
}
_ABSTENTION = {
    "precision": "share of refusals where no gold passage was there",
    "recall": "share of questions without a gold passage that were refused",
}


def measures(report: Mapping[str, Any]) -> str:
    """The table of robustness measures, systems side by side; "" when there are none."""
    cells = {(row["metric"], row["system"]): row for row in report.get("robustness", ())}
    systems = report["systems"]
    body = ""
    for metric in dict.fromkeys(metric for metric, _ in cells):
        base, _, kind = metric.partition(":")
        title = _TITLES.get(metric) or f"{_TITLES.get(base, base)}: {kind}"
        rows = [cells.get((metric, system)) for system in systems]
        said = METRICS.get(metric) or METRICS.get(base, "")
        body += _line(title, said, [_measured(r) for r in rows])
    refusing = {row["system"]: row for row in report.get("abstention", ())}
    for name, said in _ABSTENTION.items():
        held = [refusing.get(system) for system in systems]
        values = [
            (row[name], row["ci95"][name], row[f"{name}_n"])
            if row and row[name] is not None
            else None
            for row in held
        ]
        if any(values):
            body += _line(f"Refusal {name}", said, values)
    if not body:
        return ""
    return (
        "<section><h2>Robustness</h2>"
        '<p class="note">Means over questions in percent with 95 % intervals. 100 is best in every '
        "row. What stays right is counted over the n questions that were right to begin with; "
        '\u2013 says that there were none.</p><div class="scroll" tabindex="0" role="region" '
        'aria-label="Robustness"><table class="results measures"><thead><tr>'
        f'<th scope="col">measure</th>{_heads(systems)}</tr></thead><tbody>{body}</tbody></table>'
        "</div></section>"
    )


def heat_maps(report: Mapping[str, Any]) -> str:
    """A small map of kind x count per system; "" with fewer than two kinds of noise."""
    kinds: dict[str, dict[int, str]] = {
        kind: {count: names[0] for count, names in curve}
        for kind, curve in noise_curves(report["conditions"]).items()
    }
    for condition in map(parse_condition, report["conditions"]):
        if condition.noise is not None and not condition.gold:
            kinds.setdefault("noise only", {}).setdefault(condition.count, condition.name)
    if len(kinds) < 2:
        return ""
    scored = str(report.get("metric", "em"))
    counts = sorted({count for held in kinds.values() for count in held})
    cells = {(row["system"], row["condition"]): row for row in report["results"]}
    head = "".join(f'<th scope="col">{count}</th>' for count in counts)
    maps = ""
    for system in report["systems"]:
        body = ""
        for kind, held in kinds.items():
            drawn = "".join(
                _cell(*_figure(cells[system, held[count]], scored), digits=0)
                if count in held
                else "<td></td>"
                for count in counts
            )
            body += f'<tr><th scope="row">{escape(kind)}</th>{drawn}</tr>'
        maps += (
            f'<table><caption><span class="name {css_class(system)}">{escape(system)}</span>'
            f'</caption><thead><tr><th scope="col">noisy passages</th>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table>"
        )
    return (
        "<section><h2>By kind and number of noisy passages</h2>"
        f'<p class="note">{title_of(scored)} in percent, 95 % intervals. Column 0 is '
        f'clean; noise only has no gold passage.</p><div class="maps">{maps}</div></section>'
    )


_Measured = tuple[float, Sequence[float], int]


def _line(title: str, said: str, values: Sequence[_Measured | None]) -> str:
    drawn = "".join(_cell(*value) if value else '<td class="plain">\u2013</td>' for value in values)
    return f'<tr><th scope="row">{escape(title)}<small>{escape(said)}</small></th>{drawn}</tr>'


def _measured(row: Mapping[str, Any] | None) -> _Measured | None:
    if row is None or row["value"] is None:
        return None
    return row["value"], row["ci95"], row["n"]


def _figure(row: Mapping[str, Any], metric: str) -> _Measured:
    return row[metric], row["ci95"][metric], 0


def _cell(value: float, interval: Sequence[float], n: int = 0, digits: int = 1) -> str:
    low, high = interval
    counted = f"<small>n {n:,}</small>" if n else ""
    return (
        f'<td class="heat" style="--h:{round(55 * value)}%"><b>{100 * value:.1f}</b>'
        f"<small>{100 * low:.{digits}f}\u2013{100 * high:.{digits}f}</small>{counted}</td>"
    )


def _heads(systems: Sequence[str]) -> str:
    return "".join(
        f'<th scope="col"><span class="name {css_class(s)}">{escape(s)}</span></th>'
        for s in systems
    )
