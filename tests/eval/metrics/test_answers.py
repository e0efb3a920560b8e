"""Metrics against hand-worked cases and the properties that any SQuAD-style scorer has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurorit.data.answers import normalize_answer
from neurorit.eval.metrics.answers import exact_match, f1, is_abstention
from neurorit.eval.metrics.matching import match


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("The  Cat, sat.", "cat sat"),
        ("an apple a day", "apple day"),
        ("Theatre", "theatre"),
        ("U.S.A.", "usa"),
        ("", ""),
        ("\u00c9cole\u2014Nord", "\u00e9cole\u2014nord"),
    ],
)
def test_normalisation(raw: str, normal: str) -> None:
    assert normalize_answer(raw) == normal


def test_best_alias_counts() -> None:
    answers = ("New York City", "NYC")
    assert exact_match("nyc.", answers)
    assert not exact_match("new york", answers)
    assert f1("new york", answers) == pytest.approx(0.8)
    assert f1("London", answers) == 0


def test_match_reads_the_first_line_only() -> None:
    assert match("It is Paris, I think\nLondon", ["Paris"])
    assert not match("London\nParis", ["Paris"])


def test_an_answer_of_articles_only_is_no_free_match() -> None:
    assert not match("Paris", ["The"])
    assert match("the", ["The"])


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_abstentions_never_score(text: str) -> None:
    assert is_abstention(text)
    assert not exact_match(text, ["The"])
    assert not match(text, ["x"])
    assert f1(text, ["x"]) == 0


@given(st.text(max_size=30), st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=3))
def test_properties(said: str, answers: list[str]) -> None:
    assert normalize_answer(normalize_answer(said)) == normalize_answer(said)
    assert 0 <= f1(said, answers) <= 1
    if exact_match(said, answers) and normalize_answer(said):
        assert f1(said, answers) == 1
    if not is_abstention(said):
        assert exact_match(said, [said])
