"""Figures of a report where questions have no answer, or nobody knows which passage is gold."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from neurorit.data.examples import Example, Passage
from neurorit.eval.metrics.scoring import score
from neurorit.eval.predictions import Prediction, Verdict
from neurorit.eval.report.html import render_page
from neurorit.eval.report.summary import summarise
from neurorit.eval.report.write import print_table

GOLD = Passage("g", "", "Ada was born in Oslo.", "gold")
NOISE = Passage("n", "", "Ida was born in Rome.", "distractor")


def question(number: int, answerable: bool) -> Example:
    if answerable:
        return Example(f"q{number}", "Where was Ada born?", ("Oslo",))
    return Example(f"q{number}", "Where was Ada born?", (), (), {"unanswerable": True})


def half_unanswerable(system: str, says: Callable[[Example], str]) -> list[Prediction]:
    asked = [question(i, answerable=i % 2 == 0) for i in range(40)]
    return [score(system, "clean", e, [GOLD], f"{system}{e.id}", says(e)) for e in asked]


def verdict_on(p: Prediction) -> Verdict:
    if p.abstained:
        return "abstained"
    return "right" if p.output == "Oslo" else "wrong"


def test_the_judge_counts_a_right_refusal() -> None:
    held = half_unanswerable("knows", lambda e: "Oslo" if e.answers else "")
    held += half_unanswerable("always", lambda e: "Oslo")
    judged = [p.judged(verdict_on(p), "j") for p in held]
    rows = summarise(judged, ["knows", "always"], ["clean"], {})["results"]
    assert [row["judge"] for row in rows] == [1.0, 0.5] == [row["em"] for row in rows]
    assert [row["judge_bounds"] for row in rows] == [[1.0, 1.0], [0.5, 0.5]]
    # What the judge said itself is told as it is.
    assert rows[0]["verdicts"] == {"right": 20, "wrong": 0, "abstained": 20, "unscored": 0}
    assert rows[1]["verdicts"]["right"] == 40


@pytest.mark.parametrize("answerable", [True, False])
def test_without_a_judge_nothing_is_judged(answerable: bool) -> None:
    asked = [question(i, answerable) for i in range(20)]
    held = [score("s", "clean", e, [GOLD], e.id, "").judged("abstained", None) for e in asked]
    (row,) = summarise(held, ["s"], ["clean"], {})["results"]
    assert row["abstain_rate"] == 1.0
    assert row["judge"] is None and row["judge_bounds"] is None
    judged = [p.judged("abstained", "j") for p in held]
    (row,) = summarise(judged, ["s"], ["clean"], {})["results"]
    assert row["judge"] == float(not answerable)


def test_a_right_refusal_is_not_told_as_a_wrong_one() -> None:
    def says(share: int) -> Callable[[Example], str]:
        return lambda e: "Oslo" if e.answers and int(e.id[1:]) >= share else ""

    held = half_unanswerable("base", says(0)) + half_unanswerable("tuned", says(8))
    report = summarise(held, ["base", "tuned"], ["clean"], {})
    rows = report["results"]
    assert [row["abstain_rate"] for row in rows] == [0.5, 0.6]
    assert [row["abstain_rate_answerable"] for row in rows] == [0.0, 0.2]
    assert rows[0]["n_of"]["abstain_rate_answerable"] == 20
    told = "Refused although the answer is there (clean): base 0.0% and tuned 20.0%."
    assert told in report["findings"]
    page = render_page(report)
    bars = page.partition("Knowing when to refuse")[2].partition("</figure>")[0]
    assert "base with evidence 0.0%; tuned with evidence 20.0%" in bars
    line = page.partition("clean: refused")[2].partition("</tr>")[0]
    assert "<b>0.0</b>" in line and "<b>20.0</b>" in line
    assert "<dd>20.0%<small>base 0.0%</small></dd>" in page
    printed = io.StringIO()
    print_table(report, Console(file=printed, width=200))
    assert re.search(r"refused clean +0\.0 .* 20\.0 ", printed.getvalue())


def test_where_no_question_has_an_answer_no_refusal_is_unwanted() -> None:
    held = [score("s", "clean", question(i, answerable=False), [GOLD], f"{i}", "") for i in (1, 2)]
    report = summarise(held, ["s"], ["clean"], {})
    assert report["results"][0]["abstain_rate_answerable"] is None
    assert not [found for found in report["findings"] if found.startswith("Refused")]
    assert "Knowing when to refuse" not in render_page(report)


def test_refusals_of_what_was_retrieved_count_where_gold_is_known() -> None:
    gold_less = Example("q", "Where was Ada born?", ("Oslo",))
    named = Example("q", "Where was Ada born?", ("Oslo",), (), {"gold": ["g"]})

    def refusals(example: Example, condition: str) -> list[dict[str, Any]]:
        held = [score("s", condition, example, [NOISE], "", "")]
        made: list[dict[str, Any]] = summarise(held, ["s"], [condition], {})["abstention"]
        return made

    assert refusals(gold_less, "retrieved-1") == []
    for example, condition in (
        (named, "retrieved-1"),
        (question(1, answerable=False), "retrieved-1"),
        # No gold passage stands among noise alone, whatever is known of it.
        (gold_less, "noise-only-1"),
        (gold_less, "counterfactual-only-1"),
    ):
        (row,) = refusals(example, condition)
        assert (row["precision"], row["recall"], row["precision_n"]) == (1.0, 1.0, 1)
