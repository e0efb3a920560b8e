"""The HTML of report.html: one self-contained page, built from the report's numbers.

Every text from data is escaped; there is no script and no external address. It computes no
statistic.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from neurorit.eval.conditions import POOLED, parse_condition
from neurorit.eval.metrics.robustness import noise_curves
from neurorit.eval.metrics.settings import BASE, METHOD, title_of
from neurorit.eval.report import charts as plots
from neurorit.eval.report.charts import Point, css_class
from neurorit.eval.report.findings import percent
from neurorit.eval.report.html_ablation import causal_figure
from neurorit.eval.report.html_details import comparisons, every_figure, made, points
from neurorit.eval.report.html_robustness import heat_maps, measures

Report = Mapping[str, Any]
_IMAGES = {".svg": "image/svg+xml", ".png": "image/png"}


def render_page(report: Report, atlas_plot: Path | None = None) -> str:
    """The whole page. atlas_plot: drawn into it if the report has no neuron counts per layer."""
    sections = (
        _head(report),
        f'<div class="glance">{_table(report)}{_charts(report)}</div>',
        _findings(report),
        measures(report),
        heat_maps(report),
        _insides(report, atlas_plot),
        _examples(report),
        every_figure(report),
        comparisons(report),
        made(report),
    )
    style = files("neurorit.eval.report").joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Noisy-retrieval evaluation: {escape(', '.join(report['systems']))}</title>"
        f"<style>\n{style}{_colours(report)}</style></head>\n<body><main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main></body></html>\n"
    )


def _colours(report: Report) -> str:
    """One colour per system: fixed for base and the method, in turn for the others."""
    turn = iter([*("a", "b", "c"), *(["base"] * len(report["systems"]))])
    fixed = {BASE: "base", METHOD: "method"}
    rules = [
        f".{css_class(name)} {{ --c: var(--c-{fixed.get(name) or next(turn)}); }}"
        for name in report["systems"]
    ]
    return "\n".join(rules) + "\n"


def _cells(report: Report) -> dict[tuple[str, str], Any]:
    rows = [*report["results"], *report["pooled"]]
    return {(row["system"], row["condition"]): row for row in rows}


def _noise_only(report: Report) -> str | None:
    """The hardest condition without evidence."""
    parsed = [parse_condition(name) for name in report["conditions"]]
    found = [c for c in parsed if c.noise is not None and not c.gold]
    return max(found, key=lambda c: c.count).name if found else None


def _metric(report: Report) -> str:
    return str(report.get("metric", "em"))


def _head(report: Report) -> str:
    n = report["results"][0]["n"]
    findings = report["findings"]
    title = findings[0].split(": ")[0].rstrip(".") if findings else "Noisy-retrieval evaluation"
    tiles = "".join(
        f'<div class="fact"><dt>{escape(label)}</dt><dd>{escape(value)}'
        f"<small>{escape(note)}</small></dd></div>"
        for label, value, note in _facts(report)
    )
    return (
        '<header><p class="eyebrow">neurorit-rag \u00b7 answers under noisy retrieval</p>'
        f"<h1>{escape(title)}</h1>"
        f'<p class="lede">{n:,} questions, {len(report["conditions"])} conditions, '
        f"{len(report['systems'])} systems. {escape(_alike(report))} {escape(_intervals(report))}"
        f'</p><dl class="facts">{tiles}</dl></header>'
    )


def _alike(report: Report) -> str:
    """Whether all systems were asked the same, which those that retrieve by themselves are not."""
    held = (report.get("manifest") or {}).get("systems") or {}
    alone = [name for name, system in held.items() if system.get("kind") == "gateway"]
    if not alone:
        return "Every system gets the same prompts."
    return (
        f"{', '.join(alone)} {'is' if len(alone) == 1 else 'are'} asked the question alone and "
        "retrieves and prompts by itself; all others get the same prompts."
    )


def _intervals(report: Report) -> str:
    if report.get("cluster"):
        clustered = f"clustered by {report['cluster']} ({report['clusters']:,} clusters)"
    else:
        clustered = "with the question as the cluster"
    return (
        "Intervals are 95 %: Wilson\u2019s for rates, a paired bootstrap for differences, "
        f"{clustered}."
    )


def _facts(report: Report) -> list[tuple[str, str, str]]:
    metric, cells, facts = _metric(report), _cells(report), []
    pairs = report.get("pairs") or [[METHOD, BASE]]
    after, before = pairs[0]
    for row in report["comparisons"]:
        place = (row["a"], row["b"], row["condition"], row["metric"])
        if place == (after, before, POOLED, metric):
            low, high = row["ci95"]
            note = f"95 % interval {points(low)} to {points(high)}"
            facts.append(
                (f"Distractors, {after} against {before}", f"{points(row['delta'])} points", note)
            )
    noise_only = _noise_only(report)
    wanted = [
        ("clean", metric, f"{title_of(metric)} on clean"),
        ("clean", "abstain_rate", "Refused on clean"),
    ]
    if noise_only:
        wanted.insert(1, (noise_only, "abstain_rate", f"Refused on {noise_only}"))
    for condition, name, label in wanted:
        if (after, condition) in cells and (before, condition) in cells:
            note = f"{before} {percent(cells[before, condition][name])}"
            facts.append((label, percent(cells[after, condition][name]), note))
    judge = report.get("judge")
    if judge:
        note = f"{judge['n']} labelled answers"
        facts.append(("Judge against labels", f"\u03ba {judge['kappa']:.3f}", note))
    return facts


def _table(report: Report) -> str:
    cells, systems, scored = _cells(report), report["systems"], _metric(report)
    head = "".join(
        f'<th scope="col"><span class="name {css_class(s)}">{escape(s)}</span></th>'
        for s in systems
    )
    lines = [(c, scored, c, "heat", "") for c in report["conditions"]]
    noise_only = _noise_only(report)
    lines = [line for line in lines if line[0] != noise_only]
    if report["pooled"]:
        lines.append((POOLED, scored, POOLED, "heat", "pooled"))
    if noise_only:
        lines.append((noise_only, scored, noise_only, "heat", ""))
        lines.append((noise_only, "abstain_rate", f"{noise_only}: refused", "heat", "rule"))
    if "clean" in report["conditions"]:
        lines.append(("clean", "abstain_rate", "clean: refused", "alarm", ""))
    body = ""
    for condition, metric, label, colour, css in lines:
        row = "".join(_cell(cells[s, condition], metric, colour) for s in systems)
        body += f'<tr class="{css}"><th scope="row">{escape(label)}</th>{row}</tr>'
    return (
        '<section><div class="scroll" tabindex="0" role="region" aria-label="Results">'
        '<table class="results"><caption>'
        f"{title_of(scored)} in percent with its 95 % interval; "
        "the last rows are refusals, wanted on noise-only and unwanted on clean.</caption>"
        f'<thead><tr><th scope="col">condition</th>{head}</tr></thead><tbody>{body}</tbody>'
        "</table></div></section>"
    )


def _cell(row: Any, metric: str, colour: str) -> str:
    low, high = row["ci95"][metric]
    depth = round(55 * row[metric])
    return (
        f'<td class="{colour}" style="--h:{depth}%"><b>{100 * row[metric]:.1f}</b>'
        f"<small>{100 * low:.1f}\u2013{100 * high:.1f}</small></td>"
    )


def _charts(report: Report) -> str:
    cells, systems, scored = _cells(report), report["systems"], _metric(report)
    name = title_of(scored)
    figures = []
    for kind, curve in noise_curves(report["conditions"]).items():
        if len(curve) < 3 and kind != "distractor":
            continue  # two points are no curve: the heat map shows them
        series = {
            s: [_point(cells[s, names[0]], scored, count) for count, names in curve]
            for s in systems
        }
        figures.append(
            f"<figure><figcaption><strong>Accuracy against noise</strong>{name} as "
            f"{escape(kind)} passages join the gold one.</figcaption>"
            f"{plots.noise_curve(series, kind, name)}</figure>"
        )
    noise_only = _noise_only(report)
    if noise_only or "clean" in report["conditions"]:
        rows = [
            (
                s,
                _point(cells[s, "clean"], "abstain_rate") if (s, "clean") in cells else None,
                _point(cells[s, noise_only], "abstain_rate") if noise_only else None,
            )
            for s in systems
        ]
        figures.append(
            "<figure><figcaption><strong>Knowing when to refuse</strong>Refusals in percent: "
            f'<span class="key full"></span>no passage holds the answer ({noise_only}; more is '
            'better), <span class="key"></span>the answer is there (clean; less is better).'
            f"</figcaption>{plots.refusal_bars(rows)}</figure>"
        )
    return f'<section class="charts">{"".join(figures)}</section>' if figures else ""


def _point(row: Any, metric: str, x: float = 0) -> Point:
    return Point(x, row[metric], *row["ci95"][metric])


def _findings(report: Report) -> str:
    items = "".join(f"<li>{escape(finding)}</li>" for finding in report["findings"])
    return (
        "<section><h2>What the numbers say</h2>"
        '<p class="note">Written by rule from the numbers: a difference counts when its interval '
        "excludes zero and its p after Holm\u2019s correction is under 0.05.</p>"
        f'<ul class="findings">{items}</ul></section>'
    )


def _insides(report: Report, atlas_plot: Path | None) -> str:
    figures = []
    neurons = _neurons(report.get("mining") or {}, atlas_plot)
    if neurons:
        figures.append(
            "<figure><figcaption><strong>Where the mined neurons are</strong>Per layer: neurons "
            "that matter for relevant context, for irrelevant context, or for both."
            f"</figcaption>{neurons}</figure>"
        )
    causal = (report.get("mining") or {}).get("causal")
    if causal:
        figures.append(causal_figure(causal))
    judge = report.get("judge")
    if judge:
        low, high = judge["kappa_ci95"]
        meters = "".join(
            f"<span>{escape(kind)}</span>"
            f'<span class="meter"><i style="width:{100 * held["agreement"]:.1f}%"></i></span>'
            f"<span>{percent(held['agreement'])} of {held['n']}</span>"
            for kind, held in judge["kinds"].items()
        )
        figures.append(
            "<figure><figcaption><strong>How far the judge can be trusted</strong>"
            f"Agreement of {escape(judge['name'])} with {judge['n']} labelled answers: "
            f"{percent(judge['agreement'])}, Cohen\u2019s \u03ba {judge['kappa']:.3f} "
            f"(95 % interval {low:.3f} to {high:.3f}).</figcaption>"
            f'<div class="meters">{meters}</div></figure>'
        )
    return f'<section class="two">{"".join(figures)}</section>' if figures else ""


def _neurons(mining: Mapping[str, Any], atlas_plot: Path | None) -> str:
    counts = mining.get("per_layer")
    if isinstance(counts, Mapping) and {"rel", "irrel", "shared"} <= set(counts):
        return plots.layer_bars(counts)
    if atlas_plot is None or not Path(atlas_plot).is_file():
        return ""
    path = Path(atlas_plot)
    data = b64encode(path.read_bytes()).decode("ascii")
    kind = _IMAGES.get(path.suffix.lower(), "image/png")
    return f'<img alt="Mined neurons per layer" src="data:{kind};base64,{data}">'


def _examples(report: Report) -> str:
    if not report["examples"]:
        return ""
    blocks = "".join(_example(example) for example in report["examples"])
    return (
        "<section><h2>Answers that flipped</h2>"
        '<p class="note">The first questions of each kind of change, gains and losses alike; '
        f"a wrong answer names the passage that says it.</p>{blocks}</section>"
    )


def _example(example: Mapping[str, Any]) -> str:
    passages = "".join(
        f'<li><span class="kind {escape(p["kind"] or "")}">{escape(p["kind"] or "passage")}</span>'
        f"<b>{escape(p['title'])}</b> {_marked(p['text'], example['answers'])}</li>"
        for p in example["passages"]
    )
    answers = "".join(_answer(output) for output in example["outputs"])
    return (
        f"<details><summary>{escape(example['question'])}"
        f'<span class="note">{escape(example["why"])} \u00b7 {escape(example["condition"])} \u00b7 '
        f"{example['of']} such question{'s' if example['of'] != 1 else ''}</span></summary><div>"
        f"<p>Reference: <b>{escape(' / '.join(example['answers']))}</b></p>"
        f'<ol class="passages">{passages}</ol><ul class="answers">{answers}</ul></div></details>'
    )


def _answer(output: Mapping[str, Any]) -> str:
    name = f'<span class="name {css_class(output["system"])}">{escape(output["system"])}</span>'
    if output["abstained"]:
        return f'<li>{name} <span class="none">\u2205 refused to answer</span></li>'
    mark, css, word = ("\u2713", "ok", "right") if output["em"] else ("\u2717", "no", "wrong")
    where = ""
    if output["found_in"] and not output["em"]:
        where = f' <span class="note">{_read_in(output["found_in"])}</span>'
    return (
        f'<li>{name} <span class="{css}" role="img" aria-label="{word}">{mark}</span> '
        f"{escape(output['output'])}{where}</li>"
    )


def _read_in(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"as passage {numbers[0]} says"
    return f"as passages {', '.join(map(str, numbers[:-1]))} and {numbers[-1]} say"


def _marked(text: str, answers: Sequence[str]) -> str:
    """Escaped text with every accepted answer marked."""
    longest_first = sorted(answers, key=len, reverse=True)
    pattern = "|".join(re.escape(answer) for answer in longest_first)
    pieces = re.split(f"(?i)(?<!\\w)({pattern})(?!\\w)", text)
    return "".join(
        f"<mark>{escape(piece)}</mark>" if i % 2 else escape(piece)
        for i, piece in enumerate(pieces)
    )
