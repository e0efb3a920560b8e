"""The end of the report page: every figure, every comparison, and how the run was made.

Layout only, like `neurorit.eval.report.html`, whose sections these are.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from neurorit.eval.metrics.settings import NAMES
from neurorit.eval.report.charts import css_class

Report = Mapping[str, Any]


def every_figure(report: Report) -> str:
    """All metrics of all systems under all conditions, with n where it is not every question."""
    rows = [*report["results"], *report["pooled"]]
    metrics = [name for name in NAMES if any(row.get(name) is not None for row in rows)]
    head = "".join(f'<th scope="col">{escape(NAMES[name])}</th>' for name in metrics)
    body = ""
    for row in rows:
        cells = "".join(_figure(row, name) for name in metrics)
        body += (
            f'<tr><th scope="row"><span class="name {css_class(row["system"])}">'
            f"{escape(row['system'])}</span></th>"
            f'<td class="plain what">{escape(row["condition"])}</td>'
            f"{cells}</tr>"
        )
    return (
        "<section><h2>Every figure</h2><details><summary>All metrics in percent, with 95 % "
        f'intervals</summary><div><p class="note">{_notes(report)}</p>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Every figure"><table><thead>'
        f'<tr><th scope="col">system</th><th scope="col">condition</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></div></details></section>"
    )


def comparisons(report: Report) -> str:
    """Every paired difference, the primary metric's first; "" when there is none."""
    rows = "".join(
        f'<tr><th scope="row">{escape(row["a"])} \u2212 {escape(row["b"])}</th>'
        f'<td class="plain what">{escape(row["condition"])}</td>'
        f'<td class="plain what">{escape(NAMES[row["metric"]])}</td>'
        f'<td class="plain">{points(row["delta"])}</td>'
        f'<td class="plain">{points(row["ci95"][0])} to {points(row["ci95"][1])}</td>'
        f'<td class="plain">{_p(row["p"])}</td><td class="plain">{_p(row.get("p_exact"))}</td>'
        f'<td class="plain">{_p(row["p_holm"])}</td></tr>'
        for row in report["comparisons"]
    )
    if not rows:
        return ""
    primary = NAMES[report.get("metric", "em")]
    sets = report.get("family_over")
    over = f" and all data sets ({escape(', '.join(sets))})" if sets else ""
    return (
        "<section><h2>Every comparison</h2><details><summary>Paired differences, in points"
        "</summary><div>"
        '<p class="note">p: the sign-flip score test, which for one condition\u2019s right and '
        "wrong answers is McNemar\u2019s; exact: all flips counted, stricter than its level where "
        "few questions differ. Holm\u2019s correction is over all rows of a metric"
        f"{over}; claims rest on {escape(primary)}.</p>"
        '<div class="scroll" tabindex="0" role="region" aria-label="Comparisons"><table><thead><tr>'
        '<th scope="col">systems</th><th scope="col">condition</th><th scope="col">metric</th>'
        '<th scope="col">difference</th><th scope="col">95 %</th><th scope="col">p</th>'
        '<th scope="col">exact</th><th scope="col">p (Holm)</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></div></details></section>"
    )


def made(report: Report) -> str:
    """How the run was made: models, settings, what was left out, times."""
    manifest = report.get("manifest") or {}
    timings = report.get("timings") or {}
    facts: list[tuple[str, str]] = [
        (f"Model of {name}", f"{held['model']} ({held['fingerprint']})")
        for name, held in (manifest.get("systems") or {}).items()
    ]
    facts += [(name, str(manifest[name])) for name in ("examples", "seed") if name in manifest]
    if manifest.get("limit"):
        drawn = "drawn by the seed" if manifest.get("sample") == "random" else "the first ones"
        facts.append(("limit", f"{manifest['limit']} questions, {drawn}"))
    if manifest.get("engine"):
        facts.append(("engine", ", ".join(f"{k} {v}" for k, v in manifest["engine"].items())))
    if manifest.get("skipped"):
        facts.append(("left out", f"{len(manifest['skipped'])} questions with too small pools"))
    if manifest.get("left_out"):
        failed = len(report.get("unanswered") or ())
        text = f"{len(manifest['left_out'])} questions, as {failed} calls failed"
        facts.append(("left out too", text))
    unscored = sum(row["unscored"] for row in report["results"])
    facts.append(("unscored answers", f"{unscored} of {sum(r['n'] for r in report['results'])}"))
    for name, value in (report.get("mining") or {}).items():
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            facts.append((f"mining: {name.replace('_', ' ')}", text))
    for name, value in timings.items():
        if isinstance(value, float):
            facts.append((f"time: {name.replace('_', ' ')}", f"{value:.1f} s"))
    for name, value in (timings.get("generate") or {}).items():
        facts.append((f"time: answers of {name}", f"{value:.1f} s"))
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    return f'<section><h2>How it was made</h2><dl class="made">{rows}</dl></section>'


def points(share: float) -> str:
    """0.123 -> '+12.3'."""
    return f"{100 * share:+.1f}".replace("-", "\u2212")


def _figure(row: Mapping[str, Any], metric: str) -> str:
    if row.get(metric) is None:
        return "<td></td>"
    low, high = row["ci95"][metric]
    notes = f"{100 * low:.1f}\u2013{100 * high:.1f}"
    counted = (row.get("n_of") or {}).get(metric)
    more = [f"n {counted:,}"] if counted is not None else []
    if metric == "abstain_rate" and row.get("refusals", {}).get("verbal"):
        more.append(f"{row['refusals']['verbal']:,} in words")
    if metric == "judge" and row.get("unscored") and row.get("judge_bounds"):
        least, most = row["judge_bounds"]
        more.append(f"bounds {100 * least:.1f}\u2013{100 * most:.1f}")
    drawn = "".join(f"<small>{escape(text)}</small>" for text in [notes, *more])
    return f'<td class="plain"><b>{100 * row[metric]:.1f}</b>{drawn}</td>'


def _notes(report: Report) -> str:
    said = ["Refusals are empty answers and those that say there is no answer."]
    if any(row.get("unscored") for row in report["results"]):
        said.append(
            "Bounds of the judge: every unscored answer taken for wrong, and for right. Its figure "
            "itself leaves them out."
        )
    return " ".join(said)


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
