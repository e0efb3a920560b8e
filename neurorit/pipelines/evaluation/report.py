"""report: a finished run shown again, as tables, against another run, or held to gates."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurorit.core.errors import BadInput
from neurorit.pipelines.evaluation.gates import check_gates, parse_gates

if TYPE_CHECKING:
    from neurorit.eval.predictions import Metric

FORMATS = ("md", "csv", "latex")


def show_report(
    directories: Sequence[Path],
    table: str | None = None,
    out: Path | None = None,
    fail_under: Sequence[str] | None = None,
    power: float | None = None,
    *,
    by_interval: bool = False,
) -> Mapping[str, Any]:
    """Print the table of one run, or of two the differences; returns report or comparison.

    table: md, csv or latex, to `out` or to stdout; power: add the questions needed to see so large
    a difference. Raises BadInput for what is no report, GateMissed when a gate is missed.
    """
    gates = parse_gates(fail_under)
    if table is not None and table not in FORMATS:
        raise BadInput(f"‹table={table}›: use one of {', '.join(FORMATS)}")
    if out is not None and table is None:
        raise BadInput("‹out› wants ‹table› too: md, csv or latex")
    if power is not None and not 0 < power <= 1:
        raise BadInput(f"‹power={power:g}›: a difference as a share, such as 0.05")
    if len(directories) == 2:
        if table or gates:
            raise BadInput("‹table› and ‹fail_under› are for one run; give one directory")
        return _compare(directories[0], directories[1], power)
    if len(directories) != 1:
        raise BadInput("report takes one run, or two to compare")
    document = read_report(directories[0])
    if power is not None:
        document["power"] = _power(directories[0], document, power)
    if table:
        _write_table(document, table, out)
    else:
        _print(document)
        _print_power(document, power)
    check_gates(document, gates, directories[0], by_interval=by_interval)
    return document


def compare_sample_files(
    first: Path, second: Path, *, cluster: str = "", power: float | None = None
) -> dict[str, Any]:
    """Two tools' runs by what they wrote of each sample: see `eval.report.sample_files`.

    cluster: a field of the samples; power: the difference that `needed` is about (0.05).
    """
    from neurorit.eval.report.sample_files import compare_samples, read_samples

    names = (str(first), str(second)) if first.name == second.name else (first.name, second.name)
    a, b = (read_samples(p, n, cluster) for p, n in zip((first, second), names, strict=True))
    rows = compare_samples(a, b, delta=power or 0.05)
    _print_comparison(rows, power or 0.05, by_metric=True)
    return {"schema": 1, "a": names[0], "b": names[1], "comparisons": rows}


def read_report(directory: Path) -> dict[str, Any]:
    """report.json of a run; raises BadInput when it is none."""
    path = directory / "report.json" if directory.is_dir() else directory
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if (directory / "macro.json").is_file():
            sets = ", ".join(sorted(p.parent.name for p in directory.glob("*/report.json")))
            raise BadInput(f"{directory}: holds several data sets; name one: {sets}") from error
        raise BadInput(f"{path}: no report there; `neurorit-rag eval` writes one") from error
    except (ValueError, OSError) as error:
        raise BadInput(f"{path}: not a report: {error}") from error
    if not isinstance(document, dict) or document.get("schema") != 1 or "results" not in document:
        raise BadInput(f"{path}: not a report of schema 1; run the evaluation again")
    return document


def _write_table(document: Mapping[str, Any], table: str, out: Path | None) -> None:
    from neurorit.core.atomic_files import write_text
    from neurorit.eval.report.tables import FORMATS as WRITERS

    text = WRITERS[table](document)
    if out is None:
        # The real stdout: a body's own prints go to stderr, but this is the result.
        assert sys.__stdout__ is not None
        sys.__stdout__.write(text)
        sys.__stdout__.flush()
    else:
        write_text(out, text)


def _compare(first: Path, second: Path, power: float | None) -> dict[str, Any]:
    from neurorit.eval.report.compare_runs import compare_runs, read_run

    names = (str(first), str(second)) if first.name == second.name else (first.name, second.name)
    a, b = (read_run(run, name) for run, name in zip((first, second), names, strict=True))
    rows = compare_runs(a, b, metric=_metric(first, second), delta=power or 0.05)
    _print_comparison(rows, power or 0.05)
    return {"schema": 1, "a": names[0], "b": names[1], "comparisons": rows}


def _metric(*directories: Path) -> Metric:
    """The metric that the runs' own reports rest on; exact match where they differ or say none."""
    found = {
        read_report(place).get("metric", "em")
        for place in directories
        if (place / "report.json").is_file()
    }
    return found.pop() if len(found) == 1 else "em"


def _power(directory: Path, document: Mapping[str, Any], delta: float) -> list[dict[str, Any]]:
    import numpy as np

    from neurorit.eval.report.compare_runs import read_run
    from neurorit.eval.report.summary import SCORES, clusters_of
    from neurorit.eval.stats.paired import power_of

    cells = read_run(directory, "").cells
    metric = document.get("metric", "em")
    compared = [row for row in document["comparisons"] if row["metric"] == metric]
    rows = []
    for row in compared:
        a, b = cells.get((row["a"], row["condition"])), cells.get((row["b"], row["condition"]))
        if not a or not b:
            continue  # a mean over conditions has no predictions of its own
        shared = [key for key in a if key in b]
        score = SCORES[metric]
        gap = np.array([float(score(a[key])) - float(score(b[key])) for key in shared])
        clusters = clusters_of([a[key] for key in shared])
        # A p must pass Holm over the family that the report tested, so that is what is planned for.
        family = row.get("family", len(compared))
        rows.append(
            {"a": row["a"], "b": row["b"], "condition": row["condition"], "metric": metric}
            | power_of(gap, delta, family, clusters)
        )
    return rows


def _print(document: Mapping[str, Any]) -> None:
    from rich.console import Console

    from neurorit.eval.report.write import print_table

    print_table(document, Console(file=sys.stderr))


def _print_power(document: Mapping[str, Any], power: float | None) -> None:
    if power is None:
        return
    from rich.console import Console

    screen = Console(file=sys.stderr)
    screen.print(
        f"Questions to see {100 * power:g} points with 80 % power at 0.05 after Holm's correction "
        "(in brackets: were it the only test):"
    )
    for row in document["power"]:
        screen.print(
            f"  {row['a']} - {row['b']} on {row['condition']}: {row['needed']:,} "
            f"({row['needed_alone']:,}); these {row['n']:,} show "
            f"{100 * row['smallest']:.1f} points",
            highlight=False,
            markup=False,
        )


def _print_comparison(
    rows: Sequence[Mapping[str, Any]], power: float, *, by_metric: bool = False
) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from neurorit.eval.metrics.settings import title_of

    title = "Differences" if by_metric else title_of(rows[0]["metric"])
    table = Table(title=f"{title} in points, 95 % intervals", box=SIMPLE_HEAD)
    for name in ("a - b", "condition", "difference", "95 %", "p (Holm)", "n", "to see"):
        table.add_column(name, justify="left" if name in ("a - b", "condition") else "right")
    for row in rows:
        low, high = row["ci95"]
        table.add_row(
            escape(f"{row['a']} - {row['b']}"),
            escape(row["condition"] + (f", {row['metric']}" if by_metric else "")),
            f"{100 * row['delta']:+.1f}",
            f"{100 * low:+.1f} to {100 * high:+.1f}",
            f"{row['p_holm']:.3g}",
            f"{row['n']}{'' if row['paired'] else ' unpaired'}",
            f"{row['needed']:,}" if "needed" in row else "",
        )
    screen = Console(file=sys.stderr)
    screen.print(table)
    screen.print(
        f"to see: questions that show {100 * power:g} points with 80 % power after Holm's "
        "correction"
    )
