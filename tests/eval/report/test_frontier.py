"""Robustness against retention: who is beaten on both, in the rows, the page and the gates."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from neurorit.core.errors import BadInput, GateMissed
from neurorit.eval.report import charts
from neurorit.eval.report.charts import Place
from neurorit.eval.report.frontier import frontier
from neurorit.eval.report.html import render_page
from neurorit.eval.report.summary import summarise
from neurorit.eval.report.tables import as_csv, as_latex, as_markdown
from neurorit.eval.retention.figures import summarise as keep
from neurorit.eval.retention.figures import task_row, text_row
from neurorit.eval.retention.text import TextDrift
from neurorit.pipelines.evaluation.gates import check_gates, parse_gates
from tests.eval.report.test_report import CONDITIONS, SYSTEMS, make_run


def rows(**places: tuple[float, float]) -> list[dict[str, Any]]:
    """name -> (robustness, retention), each with an interval of 0.02 to both sides."""
    robust = [
        {"system": n, "metric": "robustness", "value": y, "ci95": [y - 0.02, y + 0.02]}
        for n, (y, _) in places.items()
    ]
    kept = [{"system": n, "value": x, "ci95": [x - 0.02, x + 0.02]} for n, (_, x) in places.items()]
    return frontier(robust, {"figures": kept})


def test_who_is_dominated() -> None:
    found = {
        row["system"]: row
        for row in rows(base=(0.7, 1.0), a=(0.8, 0.9), b=(0.79, 0.9), c=(0.7, 0.8), d=(0.9, 0.5))
    }
    assert [found[n]["dominated_by"] for n in "abcd"] == [[], ["a"], ["base", "a", "b"], []]
    assert found["base"]["dominated_by"] == []
    assert [found[n]["clearly_by"] for n in "abcd"] == [[], [], ["a", "b"], []]
    assert frontier([], None) == []
    unknown = [
        {"system": n, "metric": "robustness", "value": v, "ci95": None}
        for n, v in (("a", 0.9), ("b", 0.1))
    ]
    (_, low) = frontier(unknown, {"figures": unknown})
    assert (low["dominated_by"], low["clearly_by"]) == (["a"], [])


@pytest.fixture
def report() -> dict[str, Any]:
    predictions, passages = make_run(40)
    return with_frontier(summarise(predictions, SYSTEMS, CONDITIONS, passages))


def with_frontier(made: dict[str, Any]) -> dict[str, Any]:
    """A report of SYSTEMS with what they keep, each a little less than the one before."""
    right = [1.0] * 30 + [0.0] * 10
    kept = [
        row
        for n, system in enumerate(SYSTEMS)
        for row in (
            text_row(
                system, [TextDrift(9, 18.0, 18.0 + n * (1 + i % 2), 0.1 * n) for i in range(8)]
            ),
            task_row(system, "clean passages", right, right[n:] + [0.0] * n),
        )
    ]
    made["retention"] = keep(SYSTEMS[0], kept)
    made["frontier"] = frontier(made["robustness"], made["retention"])
    return made


def test_the_page_and_the_tables_hold_it(report: dict[str, Any]) -> None:
    page = render_page(report)
    assert "Robustness against retention" in page and "http" not in page.split("</style>")[1]
    chart = re.search(r'<svg[^>]*aria-label="Robustness against retention".*?</svg>', page, re.S)
    assert chart
    dominated = [row["system"] for row in report["frontier"] if row["dominated_by"]]
    assert chart[0].count(" hollow") == len(dominated)
    for x in map(float, re.findall(r'[ "](?:x|cx)[12]?="([-\d.]+)"', chart[0])):
        assert 0 <= x <= 420
    assert "KL to" in page and "polyline" not in chart[0]
    joined = render_page(report | {"families": dict.fromkeys(SYSTEMS, "one")})
    (line,) = re.findall(r'<polyline class="joined" points="([^"]*)"', joined)
    assert len(line.split()) == len(SYSTEMS)
    for text in (as_csv(report), as_markdown(report), as_latex(report)):
        assert "KL to base" in text and "clean passages" in text
    assert "Robustness against retention" not in render_page(report | {"retention": None})


def test_gates_ask_for_both(report: dict[str, Any]) -> None:
    values = {row["system"]: row["value"] for row in report["retention"]["figures"]}
    least = min(value for name, value in values.items() if name != "base")
    place = Path("report.html")
    check_gates(report, parse_gates([f"retention={least - 0.01}", "robustness=0.0"]), place)
    with pytest.raises(GateMissed, match="retention of"):
        check_gates(report, parse_gates([f"retention={least + 0.01}"]), place)
    with pytest.raises(GateMissed, match=rf"retention of {SYSTEMS[1]} is"):
        check_gates(report, parse_gates([f"{SYSTEMS[1]}:retention=0.9999"]), place)
    with pytest.raises(BadInput, match=r"was not measured; ask for it with --retention"):
        check_gates(report | {"retention": None}, parse_gates(["retention=0.5"]), place)


def test_many_points_are_numbered() -> None:
    def place(i: int, family: str) -> Place:
        x, y = 0.9 - 0.03 * i, 0.7 + 0.02 * i
        return Place(
            f"{family}@{i}", (x, x - 0.02, x + 0.02), (y, y - 0.02, y + 0.02), i == 3, family
        )

    places = [place(i, "lora" if i < 4 else "sft") for i in range(9)]
    drawn = charts.frontier(places)
    assert drawn.count("<polyline") == 2
    said = re.findall(r"<text[^>]*>([^<]*)</text>", drawn)
    for i, one in enumerate(places, start=1):
        name = f"{one.name} (dominated)" if one.dominated else one.name
        assert said.count(str(i)) == 1 and said.count(f"{i}  {name}") == 1
    height = float(re.search(r'viewBox="0 0 420 ([\d.]+)"', drawn)[1])  # type: ignore[index]
    ys = [float(y) for y in re.findall(r'<text[^>]* y="([-\d.]+)"', drawn)]
    assert max(ys) < height and min(ys) > 0
    few = charts.frontier(places[:3])
    assert [said for said in re.findall(r">([^<]*@[^<]*)</text>", few)] == [
        "lora@0",
        "lora@1",
        "lora@2",
    ]
