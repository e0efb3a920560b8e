"""Risk against coverage of a threshold, as a table and as a page with its curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from neurorit.eval.report.charts import WIDTH, _spread, _svg, _text

Steps = Mapping[str, Sequence[tuple[float, float, float]]]
"""Name of the questions -> (threshold, coverage, risk) of each step."""

_COLOURS = (
    ".s-method{--c:var(--c-method)}.s-base{--c:var(--c-base)}figure{max-width:36rem;margin:1rem 0}"
)
_SHOWN = 200  # points of a line


def table(curves: Steps) -> str:
    """CSV of all steps."""
    lines = ["questions,threshold,coverage,risk"]
    for name, steps in curves.items():
        lines += [f"{name},{t:.6g},{c:.6f},{r:.6f}" for t, c, r in steps]
    return "\n".join(lines) + "\n"


def page(curves: Steps, chosen: Mapping[str, Any]) -> str:
    """The page; chosen: what was asked for, `min_score`, and the figures of each of the curves."""
    css = (Path(__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
    facts = [("Threshold", f"{chosen['min_score']:.4g}", f"retriever {chosen['mode']}")]
    for name in curves:
        one, what = chosen[name], name.replace("_", "-")
        facts += [
            (
                f"Not answered, {what}",
                f"{100 * one['abstention']:.1f}%",
                f"{one['not_answered']} of {one['questions']}; 95 % interval "
                + " to ".join(f"{100 * end:.1f}%" for end in one["interval"]),
            ),
            (f"Risk, {what}", f"{100 * one['risk']:.1f}%", "answered without the answer at hand"),
        ]
    shown = "".join(
        f'<div class="fact"><dt>{escape(name)}</dt>'
        f"<dd>{value}<small>{escape(more)}</small></dd></div>"
        for name, value, more in facts
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Risk and coverage</title><style>{css}{_COLOURS}</style></head><body><main>"
        "<h1>When the passages suffice</h1>"
        '<p class="lede">Questions whose best passage scores below the threshold are not answered. '
        "Risk is the share of answered questions for which no passage shown holds the answer.</p>"
        f'<dl class="facts">{shown}</dl><figure>{chart(curves, chosen)}'
        "<figcaption>Each line runs over all thresholds; the mark is the chosen one.</figcaption>"
        "</figure></main></body></html>\n"
    )


def chart(curves: Steps, chosen: Mapping[str, Any]) -> str:
    """The curve as inline SVG."""
    height, left, right, top, bottom = 260, 46, 90, 14, 42
    most = max((risk for steps in curves.values() for _, _, risk in steps), default=0.0)
    most = min(1.0, max(0.05, round(most + 0.05, 1)))

    def at(coverage: float, risk: float) -> tuple[float, float]:
        x = left + (WIDTH - left - right) * coverage
        return x, top + (height - top - bottom) * (1 - min(1.0, risk / most))

    parts = []
    for part in range(5):
        _, y = at(0, most * part / 4)
        x, _ = at(part / 4, 0)
        parts.append(
            f'<line class="grid" x1="{left}" x2="{WIDTH - right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(_text(left - 6, y + 4, f"{100 * most * part / 4:.0f}%", "end"))
        parts.append(_text(x, height - bottom + 18, f"{25 * part}%", "middle"))
    parts.append(_text((left + WIDTH - right) / 2, height - 6, "coverage", "middle"))
    parts.append(_text(left + 4, top + 12, "risk", "start"))
    words = []
    ends = [(at(steps[0][1], steps[0][2])[1] + 4, name) for name, steps in curves.items()]
    heights = {name: y for y, name in _spread(ends, 15, top + 12, height - bottom - 4)}
    for (name, steps), css in zip(curves.items(), ("s-method", "s-base"), strict=False):
        some = steps[:: max(1, len(steps) // _SHOWN)]
        path = " ".join("{:.1f},{:.1f}".format(*at(c, r)) for _, c, r in some)
        one, shown = chosen[name], name.replace("_", "-")
        x, y = at(one["coverage"], one["risk"])
        parts.append(
            f'<g class="{css}"><polyline class="line" fill="none" points="{path}"/>'
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4.6"/></g>'
        )
        parts.append(_text(WIDTH - right + 6, heights[name], shown, "start", f"label {css}"))
        words.append(
            f"{shown}: coverage {100 * one['coverage']:.1f}%, risk {100 * one['risk']:.1f}%"
        )
    return _svg(height, "Risk against coverage", "; ".join(words), parts)
