"""report.html: one self-contained page, from the report's numbers and the templates beside this.

Jinja escapes every text from data; there is no script and no external address, and no statistic is
computed.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from neurorit.eval.conditions import POOLED, parse_condition
from neurorit.eval.metrics.robustness import METRICS, noise_curves
from neurorit.eval.metrics.settings import BASE, METHOD, NAMES, title_of
from neurorit.eval.report import charts
from neurorit.eval.report.charts import Point
from neurorit.eval.report.findings import percent, points, told_of, unwanted_refusals

Report = Mapping[str, Any]
Cells = Mapping[tuple[str, str], Any]

_IMAGES = {".svg": "image/svg+xml", ".png": "image/png"}
_OPTIONAL = ("mining", "judge", "manifest", "timings", "cluster", "clusters", "family_over")
_MEASURES = {
    "robustness": "Robustness",
    "noise-area": "Area",
    "no-degradation": "Kept from closed-book",
    "no-degradation:gold": "\u2026 gold passage there",
    "no-degradation:no-gold": "\u2026 gold passage missing",
    "size": "Size robustness",
    "order": "Order robustness",
    "query": "Query robustness",
}
_REFUSALS = (
    ("abstention", "precision", "share of refusals where no gold passage was there"),
    ("abstention", "recall", "share of questions without a gold passage that were refused"),
    ("knowing_when", "precision", "share of refusals where the question has no answer"),
    ("knowing_when", "recall", "share of questions without an answer that were refused"),
)
_SILENCING = (
    ("probability_misled", "How likely misled answers are"),
    ("misled_irrelevant", "Misled answers"),
    ("accuracy_relevant", "Right answers, gold passage"),
)


def render_page(report: Report, atlas_plot: Path | None = None) -> str:
    """The whole page. atlas_plot: drawn into it if the report has no neuron counts per layer."""
    absent: dict[str, Any] = dict.fromkeys(_OPTIONAL)
    report = absent | dict(report)
    cells = {(r["system"], r["condition"]): r for r in (*report["results"], *report["pooled"])}
    metric = str(report.get("metric", "em"))
    noise_only = _noise_only(report["conditions"])
    noise = _noise(report["conditions"])
    systems = (report["manifest"] or {}).get("systems") or {}
    headline = report["findings"][0].split(": ")[0].rstrip(".") if report["findings"] else ""
    return (
        _templates()
        .get_template("page.html")
        .render(
            report=report,
            cells=cells,
            metric=metric,
            noise_only=noise_only,
            style=Markup(_file("report.css")),
            colours=_colours(report["systems"]),
            title=headline or "Noisy-retrieval evaluation",
            alone=[name for name, system in systems.items() if system.get("kind") == "gateway"],
            facts=_facts(report, cells, metric, noise_only),
            lines=_lines(report, metric, noise_only),
            curves=list(_curves(report, cells, metric)),
            refusals=_refusals(report, cells, noise_only),
            measures=list(_measures(report)),
            **_retention(report),
            noise=noise,
            counts=sorted({count for by_count in noise.values() for count in by_count}),
            neurons=_neurons(report["mining"] or {}, atlas_plot),
            silencing_columns=_SILENCING,
            names=NAMES,
            measured=[n for n in NAMES if any(row.get(n) is not None for row in cells.values())],
            unscored=any(row.get("unscored") for row in report["results"]),
            making=list(_making(report)),
        )
    )


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("neurorit.eval.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "css_class": charts.css_class,
        "hundredfold": lambda share: f"{100 * share:.1f}",
        "parted": _parted,
        "percent": percent,
        "points": points,
        "p_value": _p_value,
        "signed": lambda share: f"{100 * share:+.1f}",
        "span": _span,
        "supported": _supported,
        "thousands": lambda count: f"{count:,}",
        "title_of": title_of,
    }
    return environment


def _file(name: str) -> str:
    return files("neurorit.eval.report").joinpath("templates", name).read_text(encoding="utf-8")


def _colours(systems: Sequence[str]) -> list[tuple[str, str]]:
    """One colour per system: fixed for base and the method, in turn for the others."""
    turn = iter([*("a", "b", "c"), *(["base"] * len(systems))])
    fixed = {BASE: "base", METHOD: "method"}
    return [(name, fixed.get(name) or next(turn)) for name in systems]


def _noise_only(conditions: Sequence[str]) -> str | None:
    """The hardest condition without evidence."""
    parsed = [c for c in map(parse_condition, conditions) if not c.query]
    bare = [c for c in parsed if c.noise is not None and not c.gold]
    return max(bare, key=lambda c: c.count).name if bare else None


def _facts(
    report: Report, cells: Cells, metric: str, noise_only: str | None
) -> list[tuple[str, str, str]]:
    """(label, value, note) of the figures at the top."""
    facts = []
    after, before = (report.get("pairs") or [[METHOD, BASE]])[0]
    for row in report["comparisons"]:
        place = (row["a"], row["b"], row["condition"], row["metric"])
        if place == (after, before, POOLED, metric):
            low, high = row["ci95"]
            note = f"95 % interval {points(low)} to {points(high)}"
            facts.append(
                (f"Distractors, {after} against {before}", f"{points(row['delta'])} points", note)
            )
    shown = [("clean", metric, f"{title_of(metric)} on clean")]
    if noise_only:
        shown.append((noise_only, "abstain_rate", f"Refused on {noise_only}"))
    unwanted = unwanted_refusals(report["results"])
    if unwanted:
        shown.append(("clean", unwanted, "Refused on clean"))
    for condition, name, label in shown:
        if (after, condition) in cells and (before, condition) in cells:
            note = f"{before} {percent(cells[before, condition][name])}"
            facts.append((label, percent(cells[after, condition][name]), note))
    judge = report["judge"]
    if judge:
        note = f"{judge['n']} labelled answers"
        facts.append(("Judge against labels", f"\u03ba {judge['kappa']:.3f}", note))
    return facts


def _lines(report: Report, metric: str, noise_only: str | None) -> list[Sequence[str]]:
    """(condition, metric, label, ground, class) of the result table's lines."""
    lines: list[Sequence[str]] = [
        (c, metric, c, "heat", "") for c in report["conditions"] if c != noise_only
    ]
    if report["pooled"]:
        lines.append((POOLED, metric, POOLED, "heat", "pooled"))
    if noise_only:
        lines.append((noise_only, metric, noise_only, "heat", ""))
        lines.append((noise_only, "abstain_rate", f"{noise_only}: refused", "heat", "rule"))
    unwanted = unwanted_refusals(report["results"])
    if unwanted:
        lines.append(("clean", unwanted, "clean: refused", "alarm", ""))
    return lines


def _curves(report: Report, cells: Cells, metric: str) -> Iterator[tuple[str, Markup]]:
    """(kind of noise, chart); of two points only distractors', the heat map shows the others."""
    for kind, curve in noise_curves(report["conditions"]).items():
        if len(curve) >= 3 or kind == "distractor":
            series = {
                system: [_point(cells[system, names[0]], metric, count) for count, names in curve]
                for system in report["systems"]
            }
            yield kind, Markup(charts.noise_curve(series, kind, title_of(metric)))


def _refusals(report: Report, cells: Cells, noise_only: str | None) -> Markup | None:
    unwanted = unwanted_refusals(report["results"])
    if not noise_only and not unwanted:
        return None
    rows = [
        (
            s,
            _point(cells[s, "clean"], unwanted) if unwanted else None,
            _point(cells[s, noise_only], "abstain_rate") if noise_only else None,
        )
        for s in report["systems"]
    ]
    return Markup(charts.refusal_bars(rows))


def _point(row: Any, metric: str, x: float = 0) -> Point:
    return Point(x, row[metric], *row["ci95"][metric])


def _measures(report: Report) -> Iterator[tuple[str, str, list[tuple[Any, ...] | None]]]:
    """(title, what it means, (value, interval, n) of each system) of every robustness measure."""
    systems = report["systems"]
    cells = {(row["metric"], row["system"]): row for row in report.get("robustness", ())}
    for metric in dict.fromkeys(metric for metric, _ in cells):
        base, _, kind = metric.partition(":")
        title = _MEASURES.get(metric) or f"{_MEASURES.get(base, base)}: {kind}"
        rows = [cells.get((metric, system)) for system in systems]
        yield (
            title,
            METRICS.get(metric) or METRICS.get(base, ""),
            [
                (row["value"], row["ci95"], row["n"]) if row and row["value"] is not None else None
                for row in rows
            ],
        )
    for part, name, meaning in _REFUSALS:
        refusing = {row["system"]: row for row in report.get(part, ())}
        rows = [refusing.get(system) for system in systems]
        values = [
            (row[name], row["ci95"][name], row[f"{name}_n"])
            if row and row[name] is not None
            else None
            for row in rows
        ]
        if any(values):
            heading = "Refusal" if part == "abstention" else "Refusal without an answer,"
            yield f"{heading} {name}", meaning, values


def _retention(report: Report) -> dict[str, Any]:
    """What the section on retention shows; its `retention` is None where it was not measured."""
    found = report.get("retention")
    if not found or not found["figures"]:
        return {"retention": None}
    systems = [row["system"] for row in found["figures"]]
    rows = {(row["part"], row["system"]): row for row in found["rows"]}
    families = report.get("families") or {}
    places = [
        charts.Place(
            row["system"],
            _place(row["retention"], row["retention_ci95"]),
            _place(row["robustness"], row["robustness_ci95"]),
            bool(row["dominated_by"]),
            families.get(row["system"], ""),
        )
        for row in report.get("frontier") or ()
    ]
    return {
        "retention": found,
        "retention_systems": systems,
        "retention_parts": [
            (part, [rows.get((part, system)) for system in systems])
            for part in dict.fromkeys(part for part, _ in rows)
        ],
        "frontier_chart": Markup(charts.frontier(places)) if places else None,
    }


def _place(value: float, interval: Sequence[float]) -> tuple[float, float, float]:
    low, high = interval
    return value, low, high


def _noise(conditions: Sequence[str]) -> dict[str, dict[int, str]]:
    """Kind of noise -> count -> the condition that a heat map shows there."""
    kinds = {
        kind: {count: names[0] for count, names in curve}
        for kind, curve in noise_curves(conditions).items()
    }
    for condition in map(parse_condition, conditions):
        if condition.noise is not None and not condition.gold and not condition.query:
            kinds.setdefault("noise only", {}).setdefault(condition.count, condition.name)
    return kinds


def _neurons(mining: Mapping[str, Any], atlas_plot: Path | None) -> Markup | None:
    counts = mining.get("per_layer")
    if isinstance(counts, Mapping) and {"rel", "irrel", "shared"} <= set(counts):
        return Markup(charts.layer_bars(counts))
    if atlas_plot is None or not Path(atlas_plot).is_file():
        return None
    path = Path(atlas_plot)
    data = b64encode(path.read_bytes()).decode("ascii")
    kind = _IMAGES.get(path.suffix.lower(), "image/png")
    image = Markup('<img alt="Mined neurons per layer" src="data:{};base64,{}">')
    return image.format(kind, data)


def _making(report: Report) -> Iterator[tuple[str, str]]:
    """How the run was made: models, settings, what was left out, times."""
    manifest, timings = report["manifest"] or {}, report["timings"] or {}
    for name, system in (manifest.get("systems") or {}).items():
        yield f"Model of {name}", f"{system['model']} ({system['fingerprint']})"
    if served := report.get("served"):
        yield "served by the demo", told_of(served["tuned"])
    for name in ("examples", "seed"):
        if name in manifest:
            yield name, str(manifest[name])
    if manifest.get("limit"):
        drawn = "drawn by the seed" if manifest.get("sample") == "random" else "the first ones"
        yield "limit", f"{manifest['limit']} questions, {drawn}"
    if manifest.get("engine"):
        yield "engine", ", ".join(f"{k} {v}" for k, v in manifest["engine"].items())
    if manifest.get("skipped"):
        yield "left out", f"{len(manifest['skipped'])} questions with too small pools"
    if manifest.get("left_out"):
        reasons = Counter(one.get("reason", "failed") for one in report.get("unanswered") or ())
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        yield "left out too", f"{len(manifest['left_out'])} questions with unscored replies: {told}"
    unscored = sum(row["unscored"] for row in report["results"])
    yield "unscored answers", f"{unscored} of {sum(row['n'] for row in report['results'])}"
    for name, value in (report["mining"] or {}).items():
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            yield f"mining: {name.replace('_', ' ')}", text
    for name, value in timings.items():
        if isinstance(value, float):
            yield f"time: {name.replace('_', ' ')}", f"{value:.1f} s"
    for name, value in (timings.get("generate") or {}).items():
        yield f"time: answers of {name}", f"{value:.1f} s"


def _parted(text: str, answers: Sequence[str]) -> list[str]:
    """The text in pieces; those at odd places are accepted answers."""
    longest_first = sorted(answers, key=len, reverse=True)
    pattern = "|".join(re.escape(answer) for answer in longest_first)
    return re.split(f"(?i)(?<!\\w)({pattern})(?!\\w)", text)


def _supported(answer: Mapping[str, Any]) -> Markup:
    """An answer's text with its unsupported sentences marked."""
    text, made, at = str(answer["output"]), Markup(), 0
    mark = Markup('<span class="unsupported" title="no passage supports it">{}</span>')
    for start, end in answer.get("unsupported", ()):
        made += text[at:start]
        made += mark.format(text[start:end])
        at = end
    return made + text[at:]


def _span(interval: Sequence[float], digits: int = 1) -> str:
    low, high = interval
    return f"{100 * low:.{digits}f}\u2013{100 * high:.{digits}f}"


def _p_value(value: float | None) -> str:
    if value is None:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
