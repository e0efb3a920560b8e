"""The report page's causal check: what silencing mined neurons, and controls, changes.

Layout only, like `report.html`, whose figure this is; every change stands with its interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

_COLUMNS = (
    ("probability_misled", "How likely misled answers are"),
    ("misled_irrelevant", "Misled answers"),
    ("accuracy_relevant", "Right answers, gold passage"),
)


def causal_figure(found: Mapping[str, Any]) -> str:
    """The table of `atlas verify`: a row for each set that was silenced, in points."""
    head = "".join(f"<th>{escape(title)}</th>" for _, title in _COLUMNS)
    rows = "".join(
        f"<tr><th>{escape(str(row['silenced']))}</th>"
        + "".join(_cell(row, name) for name, _ in _COLUMNS)
        + "</tr>"
        for row in found["silencing"]
    )
    return (
        "<figure><figcaption><strong>Do the mined neurons matter?</strong>Neurons held at zero, "
        f"nothing trained, {found['contexts']} contexts of each side: change in points, with 95 % "
        f"intervals. Controls are as many neurons in the same layers.</figcaption>"
        '<div class="scroll" tabindex="0" role="region" aria-label="Causal check"><table>'
        f"<thead><tr><th>Silenced</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        f'<p class="note">{escape(_said(found))}</p></figure>'
    )


def _cell(row: Mapping[str, Any], name: str) -> str:
    if name not in row:
        return '<td class="plain">\u2013</td>'
    change = row.get(f"{name}_change")
    if change is None:
        return f'<td class="plain"><b>{100 * row[name]:.1f} %</b></td>'
    low, high = row[f"{name}_change_ci95"]
    return (
        f'<td class="plain"><b>{100 * change:+.1f}</b>'
        f"<small>{100 * low:+.1f} to {100 * high:+.1f}</small></td>"
    )


def _said(found: Mapping[str, Any]) -> str:
    verdict = str(found["verdict"])
    sentence = verdict[:1].upper() + verdict[1:]
    against = found["p_irrel_minus_random"]
    if against.get("probability") is None:
        return f"{sentence}."
    low, high = against["probability_ci95"]
    return (
        f"{sentence} (P_irrel minus random: {100 * against['probability']:+.1f} points, "
        f"{100 * low:+.1f} to {100 * high:+.1f})."
    )
