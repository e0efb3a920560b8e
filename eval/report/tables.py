"""A report's figures as Markdown, CSV or LaTeX; every figure stands with its 95 % interval."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from neurorit.eval.metrics.settings import NAMES, title_of

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
)


class Figure(NamedTuple):
    """One figure. part: results, pooled, robustness, abstention or comparisons."""

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
    for row in report.get("abstention", ()):
        for name in ("precision", "recall"):
            if row[name] is not None:
                low, high = row["ci95"][name]
                yield Figure(
                    "abstention", row["system"], "", name, row[name], low, high, row[f"{name}_n"]
                )
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


def as_csv(report: Mapping[str, Any]) -> str:
    """One line a figure, as shares and not percentages; the header names the columns."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(Figure._fields)
    writer.writerows(figures(report))
    return stream.getvalue()


def as_markdown(report: Mapping[str, Any]) -> str:
    """Tables of every metric, the primary one first, robustness, comparisons, and the findings."""

    def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        cells = [[cell.replace("|", r"\|") for cell in row] for row in [head, *rows]]
        lines = [f"| {' | '.join(row)} |" for row in cells]
        lines.insert(1, "|---|" + "---:|" * (len(head) - 1))
        return f"## {title}\n\n" + "\n".join(lines) + "\n"

    parts = ["# Answers under noisy retrieval\n"]
    if report.get("findings"):
        parts.append("".join(f"- {finding}\n" for finding in report["findings"]))
    parts += [table(*content) for content in _tables(report, "\u2013")]
    return "\n".join(parts)


def as_latex(report: Mapping[str, Any]) -> str:
    """The same tables for a paper, with booktabs; special characters are escaped."""

    def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        lines = [" & ".join(cell.translate(_LATEX) for cell in row) + r" \\" for row in rows]
        top = " & ".join(cell.translate(_LATEX) for cell in head) + r" \\"
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{title.translate(_LATEX)}}}",
                rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
                r"\toprule",
                top,
                r"\midrule",
                *lines,
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
                "",
            ]
        )

    text = "\n".join(table(*content) for content in _tables(report, "--"))
    return "% needs \\usepackage{booktabs}\n" + text


FORMATS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "md": as_markdown,
    "csv": as_csv,
    "latex": as_latex,
}


def _tables(
    report: Mapping[str, Any], dash: str
) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """(title, head, rows) of each table for a reader."""
    held = list(figures(report))
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
        chosen = [f for f in held if f.part in ("results", "pooled") and f.metric == metric]
        if chosen:
            rows = across(chosen, lambda f: f.condition)
            yield f"{title_of(metric)} {note}", ["condition", *systems], rows
    robust = [f for f in held if f.part in ("robustness", "abstention")]
    if robust:
        rows = across(
            robust, lambda f: f"refusal {f.metric}" if f.part == "abstention" else f.metric
        )
        yield f"Robustness by {NAMES[primary]} {note}", ["measure", *systems], rows
    for metric in [primary, *(name for name in NAMES if name != primary)]:
        compared = [
            [
                f.system,
                f.condition,
                f"{100 * f.value:+.1f}",
                f"{100 * f.low:+.1f} to {100 * f.high:+.1f}",
                f"{f.p_holm:.3g}",
            ]
            for f in held
            if f.part == "comparisons" and f.metric == metric
        ]
        if compared:
            head = ["systems", "condition", "difference", "95 % interval", "p (Holm)"]
            yield f"Paired differences in {NAMES[metric]}, in points", head, compared


def _percent(figure: Figure | None, dash: str) -> str:
    if figure is None:
        return ""
    return f"{100 * figure.value:.1f} ({100 * figure.low:.1f}{dash}{100 * figure.high:.1f})"
