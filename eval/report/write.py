"""report.json, report.html (one file that asks the network for nothing) and the terminal's table.

It shows what the report holds and computes nothing but layout.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurorit.core.atomic_files import write_text
from neurorit.eval.conditions import POOLED, parse_condition
from neurorit.eval.metrics.settings import title_of
from neurorit.eval.report.findings import percent, unwanted_refusals
from neurorit.eval.report.html import render_page

if TYPE_CHECKING:
    from rich.console import Console


def write_report(
    report: Mapping[str, Any], out: Path, *, atlas_plot: Path | None = None
) -> dict[str, Any]:
    """Write report.json and report.html into `out`, each whole or not at all; returns the report.

    atlas_plot: an SVG or PNG that is put into the page when the mining summary has no `per_layer`
    counts to draw from.
    """
    out = Path(out)
    document = dict(report)
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(out / "report.json", text + "\n")
    write_text(out / "report.html", render_page(document, atlas_plot))
    return document


def print_table(report: Mapping[str, Any], console: Console | None = None) -> None:
    """Conditions x systems on the terminal: the primary metric, and refusals.

    Each cell holds a percentage and its 95 % interval; the best of a row is bold.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    systems = list(report["systems"])
    questions = report["results"][0]["n"] if report["results"] else 0
    scored = str(report.get("metric", "em"))
    title = f"{title_of(scored)} in percent, {questions} questions, 95 % intervals"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("condition", no_wrap=True)
    for system in systems:
        # A name such as `tuned[/v2]` is no markup.
        table.add_column(escape(system), justify="right", no_wrap=True)
    cells = {(r["condition"], r["system"]): r for r in [*report["results"], *report["pooled"]]}
    lines = [(name, scored, name, True) for name in report["conditions"]]
    if report["pooled"]:
        lines.append((POOLED, scored, POOLED, True))
    for name in report["conditions"]:
        condition = parse_condition(name)
        if condition.noise is not None and not condition.gold:
            lines = [line for line in lines if line[0] != name]
            lines.append((name, "abstain_rate", f"refused {name}", True))
    unwanted = unwanted_refusals(report["results"])
    if unwanted:
        lines.append(("clean", unwanted, "refused clean", False))
    for name, metric, label, more_is_better in lines:
        rows = [cells[name, system] for system in systems]
        values = [row[metric] for row in rows]
        best = max(values) if more_is_better else min(values)
        drawn = []
        for row, value in zip(rows, values, strict=True):
            low, high = row["ci95"][metric]
            bold = "bold" if value == best and min(values) != max(values) else "default"
            drawn.append(
                f"[{bold}]{100 * value:.1f}[/] [dim]{100 * low:>2.0f}\u2013{100 * high:<3.0f}[/]"
            )
        table.add_row(label, *drawn, end_section=name == POOLED)
    screen = console or Console()
    screen.print(table)
    judge = report.get("judge")
    if judge:
        screen.print(
            f"Judge {judge['name']}: kappa {judge['kappa']:.3f}, agreement "
            f"{percent(judge['agreement'])} on {judge['n']} labelled answers",
            markup=False,
        )
    for finding in report["findings"]:
        screen.print(f"\u2022 {finding}", highlight=False, markup=False)
