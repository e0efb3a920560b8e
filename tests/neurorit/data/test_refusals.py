"""Refusals in words: told from answers, counted beside the empty ones, never sent to a judge."""

from __future__ import annotations

import pytest

from neurorit.core.errors import BadInput
from neurorit.data.examples import Example
from neurorit.data.refusals import refusal_of
from neurorit.eval.metrics.scoring import score
from neurorit.eval.metrics.settings import Analysis
from neurorit.eval.report.summary import summarise

QUESTION = Example("q", "Where was he born?", ("Oslo",))


@pytest.mark.parametrize(
    "text",
    [
        "I don't know.",
        "I don\u2019t know the answer to that.",
        "I do not have enough information to answer this question.",
        "I'm not sure.",
        "The passages do not mention where he was born.",
        "The provided context doesn't explicitly state his place of birth.",
        "It is not specified in the passages.",
        "This cannot be determined from the documents.",
        "I cannot answer the question based on these documents.",
        "There is not enough information to say.",
        "Insufficient information in the documents, so no answer.",
        "The passages name his father, but they do not say where he was born.",
        "Unknown",
        "unanswerable.",
        "Not mentioned in the text",
    ],
)
def test_refusals_in_words(text: str) -> None:
    assert refusal_of(text) == "verbal"


@pytest.mark.parametrize(
    "text",
    [
        "Rome",
        "I am not sure, but it may be Rome.",
        "I don't know. Perhaps Rome.",
        "The passages do not say it outright, but he was born in Rome.",
        "The Unknown Soldier",
        "Not Rome, Naples",
        "He knows no answer but Rome",
        "Rome\nI do not know more.",
        "Doesn't Stop",
    ],
)
def test_answers_are_no_refusals(text: str) -> None:
    assert refusal_of(text) == ""


def test_empty_and_own_patterns() -> None:
    assert refusal_of(" \n") == "empty"
    assert refusal_of("I don't know", ()) == ""
    assert refusal_of("KEINE AHNUNG", (r"keine ahnung",)) == "verbal"
    with pytest.raises(BadInput, match=r"refusals: '\('"):
        refusal_of("x", ("(",))


def test_a_right_answer_refuses_nothing() -> None:
    unknown = Example("q", "Who is the author?", ("unknown",))
    held = score("s", "clean", unknown, [], "", "Unknown")
    assert held.em and not held.abstained
    said = score("s", "clean", QUESTION, [], "", "It is not mentioned outright; Oslo.")
    assert said.match and not said.abstained


def test_both_kinds_are_reported() -> None:
    held = [
        score("s", "clean", Example(f"q{i}", "?", ("Oslo",)), [], str(i), text)
        for i, text in enumerate(["", "I don't know.", "I don't know.", "Oslo"])
    ]
    row = summarise(held, ["s"], ["clean"], {})["results"][0]
    assert (row["abstain_rate"], row["refusals"]) == (0.75, {"empty": 1, "verbal": 2})
    silent = Analysis(refusals=())
    held = [score("s", "clean", QUESTION, [], "", "I don't know.", analysis=silent)]
    assert not held[0].abstained
