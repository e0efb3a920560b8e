"""Flipped examples: what counts as a flip, and how the page marks it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neurorit.data.examples import Example, Passage
from neurorit.eval.metrics.scoring import score
from neurorit.eval.metrics.settings import Analysis
from neurorit.eval.report.html import render_page
from neurorit.eval.report.summary import summarise

GOLD = Passage("g", "", "Ada was born in Oslo.", "gold")
NOISE = Passage("n", "", "Ida was born in Rome.", "distractor")
ASKED = [Example(f"q{i}", "Where was Ada born?", ("Oslo",)) for i in range(6)]
UNANSWERABLE = [
    Example(f"u{i}", "Where was Bo born?", (), (), {"unanswerable": True}) for i in range(4)
]
SHOWN = {"clean": [GOLD], "distractor-1": [GOLD, NOISE]}


def report(says: Mapping[tuple[str, str], str], analysis: Analysis | None = None) -> dict[str, Any]:
    """By (system, condition) what is said to every question."""
    chosen = analysis or Analysis()
    held = [
        score(s, c, e, SHOWN[c], f"{s}{c}{e.id}", text, analysis=chosen)
        for (s, c), text in says.items()
        for e in ASKED + UNANSWERABLE
    ]
    passages = {(e.id, c): shown for c, shown in SHOWN.items() for e in ASKED + UNANSWERABLE}
    systems, conditions = (list(dict.fromkeys(part)) for part in zip(*says, strict=True))
    return summarise(held, systems, conditions, passages, analysis=chosen)


def kinds(found: Mapping[str, Any]) -> dict[str, int]:
    return {example["why"]: example["of"] for example in found["examples"]}


def test_right_and_wrong_are_those_of_the_run() -> None:
    says = {("base", "distractor-1"): "Nobody knows where", ("tuned", "distractor-1"): "In Oslo."}
    found = report(says, Analysis("match"))
    # The answer before was wrong, and no passage's.
    assert kinds(found) == {"Wrong before, right after": 6}
    first = found["examples"][0]["outputs"]
    assert [(one["right"], one["em"]) for one in first] == [(False, False), (True, False)]
    marks = render_page(found).partition("Answers that flipped")[2]
    assert marks.count('aria-label="right"') == marks.count('aria-label="wrong"') == 3
    assert kinds(report(says)) == {}


def test_without_a_pair_right_on_clean_is_that_of_the_run() -> None:
    says = {("s", "clean"): "In Oslo.", ("s", "distractor-1"): "In Rome."}
    assert kinds(report(says, Analysis("match"))) == {"s: right on clean, misled here": 6}
    assert kinds(report(says)) == {}


def test_a_refusal_of_what_has_no_answer_is_no_flip_to_show() -> None:
    says = {("base", "clean"): "Rome", ("tuned", "clean"): ""}
    assert kinds(report(says)) == {"Refused although the answer is there": 6}
