"""A report's figures as a data frame, CSV, Markdown or LaTeX; each with its 95 % interval.

Names come from users and their files: none may become a formula, a command or a new cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from neurorit.eval.metrics.settings import NAMES, title_of

# What a spreadsheet takes for the beginning of a formula.
_LOSS = ("retention", "text")
_REFUSING = {"abstention": "refusal", "knowing_when": "no answer: refusal"}
_FORMULA = ("=", "+", "-", "@")


class Figure(NamedTuple):
    """One figure. part: results, pooled, robustness, abstention, knowing_when, retention, or
    comparisons; of retention `condition` is the part that is kept, empty for the mean of all.
    """

    part: str
    system: str
    condition: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    p_holm: float | None = None


def figures(report: Mapping[str, Any]) -> Iterator[Figure]:
    """Every figure of a report that was measured, in the report's order."""
    for part in ("results", "pooled"):
        for row in report.get(part, ()):
            for metric in NAMES:
                if row.get(metric) is not None:
                    low, high = row["ci95"][metric]
                    where = (row["system"], row["condition"], metric)
                    n = (row.get("n_of") or {}).get(metric, row["n"])
                    yield Figure(part, *where, row[metric], low, high, n)
    for row in report.get("robustness", ()):
        if row["value"] is None:
            continue
        low, high = row["ci95"]
        yield Figure(
            "robustness", row["system"], "", row["metric"], row["value"], low, high, row["n"]
        )
    for part in ("abstention", "knowing_when"):
        for row in report.get(part, ()):
            for name in ("precision", "recall"):
                if row[name] is not None:
                    low, high = row["ci95"][name]
                    n = row[f"{name}_n"]
                    yield Figure(part, row["system"], "", name, row[name], low, high, n)
    yield from _kept(report.get("retention"))
    for row in report.get("comparisons", ()):
        pair = f"{row['a']} - {row['b']}"
        low, high = row["ci95"]
        yield Figure(
            "comparisons",
            pair,
            row["condition"],
            row["metric"],
            row["delta"],
            low,
            high,
            row.get("n", 0),
            row["p_holm"],
        )


def _kept(retention: Mapping[str, Any] | None) -> Iterator[Figure]:
    """Retention of each system, what is kept of each part, and its KL to the base a token."""
    if not retention:
        return
    for row in retention["figures"]:
        low, high = row["ci95"]
        n = len(row["parts"])
        yield Figure("retention", row["system"], "", "retention", row["value"], low, high, n)
    for row in retention["rows"]:
        where = ("retention", row["system"], row["part"])
        p = row.get("p_holm")
        if row["kept"] is not None:
            low, high = row["kept_ci95"]
            yield Figure(*where, "kept", row["kept"], low, high, row["kept_n"])
        low, high = row["delta_ci95"]
        yield Figure(*where, "difference from base", row["delta"], low, high, row["n"], p)
        if "kl" in row:
            low, high = row["kl_ci95"]
            yield Figure(*where, "KL to base", row["kl"], low, high, row["n"])


def frame(report: Mapping[str, Any]) -> pd.DataFrame:
    """Every figure of a report, a row each; the columns are those of `Figure`."""
    return pd.DataFrame.from_records(list(figures(report)), columns=Figure._fields)


def as_csv(report: Mapping[str, Any]) -> str:
    """One row a figure, shares from 0 to 1.

    A text that a spreadsheet would take for a formula stands behind an apostrophe.
    """
    table = frame(report)
    texts = ["part", "system", "condition", "metric"]
    table[texts] = table[texts].map(_no_formula)
    return str(table.to_csv(index=False, lineterminator="\n"))


def as_markdown(report: Mapping[str, Any]) -> str:
    """Tables of every metric, robustness and comparisons for a reader; shares in percent."""
    parts = ["# Answers under noisy retrieval\n"]
    if report.get("findings"):
        parts.append("".join(f"- {_in_markdown(f)}\n" for f in report["findings"]))
    for title, head, rows in _tables(report, "\u2013"):
        parts.append(f"## {title}\n\n{markdown_table(head, rows)}")
    return "\n".join(parts)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1) -> str:
    """A Markdown table; `left`: how many columns of text it begins with, the others are figures."""
    table = pd.DataFrame([[_in_markdown(cell) for cell in row] for row in rows])
    text = table.to_markdown(
        index=False,
        headers=[_in_markdown(name) for name in head],
        tablefmt="pipe",
        colalign=["left"] * left + ["right"] * (len(head) - left),
        disable_numparse=True,
    )
    return f"{text}\n"


def as_latex(report: Mapping[str, Any]) -> str:
    """The same tables for a paper, with booktabs; special characters are escaped."""
    return (
        "% needs \\usepackage{booktabs} and, for < and >, \\usepackage[T1]{fontenc}\n"
        + "\n".join(_latex_table(*content) for content in _tables(report, "--"))
    )


def _latex_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    table = pd.DataFrame([[_printable(cell) for cell in row] for row in rows])
    table.columns = pd.Index([_printable(name) for name in head])
    style = table.style.hide(axis="index")
    style = style.format(escape="latex").format_index(escape="latex", axis="columns")
    return str(
        style.to_latex(
            hrules=True,
            caption=title.replace("%", r"\%"),
            column_format="l" + "r" * (len(head) - 1),
            position_float="centering",
        )
    )


def _no_formula(text: str) -> str:
    text = _printable(text)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _in_markdown(cell: object) -> str:
    return _printable(str(cell)).replace("|", r"\|").replace("<", "&lt;")


def _printable(text: str) -> str:
    """The text with what no reader sees, such as a terminal's escape, written out: `\\x1b`."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


FORMATS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "md": as_markdown,
    "csv": as_csv,
    "latex": as_latex,
}


def _tables(
    report: Mapping[str, Any], dash: str
) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """(title, head, rows) of each table for a reader."""
    measured = list(figures(report))
    systems = list(report["systems"])

    def across(chosen: Sequence[Figure], name: Callable[[Figure], str]) -> list[list[str]]:
        cells = {(name(f), f.system): f for f in chosen}
        lines = dict.fromkeys(name(f) for f in chosen)
        return [
            [line, *(_percent(cells.get((line, system)), dash) for system in systems)]
            for line in lines
        ]

    n = report["results"][0]["n"] if report["results"] else 0
    note = f"in percent with 95 % intervals, {n} questions"
    primary = report.get("metric", "em")
    for metric in [primary, *(name for name in NAMES if name != primary)]:
        chosen = [f for f in measured if f.part in ("results", "pooled") and f.metric == metric]
        if chosen:
            rows = across(chosen, lambda f: f.condition)
            yield f"{title_of(metric)} {note}", ["condition", *systems], rows
    robust = [f for f in measured if f.part in ("robustness", *_REFUSING)]
    if robust:
        rows = across(
            robust, lambda f: f"{_REFUSING[f.part]} {f.metric}" if f.part in _REFUSING else f.metric
        )
        yield f"Robustness by {NAMES[primary]} {note}", ["measure", *systems], rows
    kept = [f for f in measured if f.part == "retention" and f.metric in ("retention", "kept")]
    if kept:
        rows = across(kept, lambda f: f.condition or "retention")
        yield "Kept of the base, in percent with 95 % intervals", ["part", *systems], rows
    drift = [f for f in measured if f.metric == "KL to base" or (f.part, f.condition) == _LOSS]
    if drift:
        rows = [
            [f.system, f.metric, f"{f.value:.4f}", f"{f.low:.4f} to {f.high:.4f}"]
            for f in drift
            if f.metric != "kept"
        ]
        head = ["system", "measure", "nats a token", "95 % interval"]
        yield "Text: loss and KL against the base", head, rows
    for metric in [primary, *(name for name in NAMES if name != primary)]:
        compared = [
            [
                f.system,
                f.condition,
                f"{100 * f.value:+.1f}",
                f"{100 * f.low:+.1f} to {100 * f.high:+.1f}",
                f"{f.p_holm:.3g}",
            ]
            for f in measured
            if f.part == "comparisons" and f.metric == metric
        ]
        if compared:
            head = ["systems", "condition", "difference", "95 % interval", "p (Holm)"]
            yield f"Paired differences in {NAMES[metric]}, in points", head, compared


def _percent(figure: Figure | None, dash: str) -> str:
    if figure is None:
        return ""
    return f"{100 * figure.value:.1f} ({100 * figure.low:.1f}{dash}{100 * figure.high:.1f})"
