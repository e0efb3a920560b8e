"""Sentences that no passage supports: names and numbers must stand there, most other words too."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurorit.data.examples import Passage
from neurorit.data.support import support_of, unsupported_spans

PASSAGES = [
    Passage("a", "Ada Lovelace", "Lovelace was born in 1815 in London. She published long notes."),
    Passage("b", "Bergen", "The harbour of Bergen was founded in 1070 by King Olav."),
]


def marked(answer: str, question: str = "") -> list[str]:
    return [answer[a:b] for a, b in unsupported_spans(answer, PASSAGES, question)]


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("1815", []),
        ("1816", ["1816"]),
        ("She was born in 1815.", []),
        ("She was born in 1070.", ["She was born in 1070."]),  # of another passage
        ("She was born in 1815. She died in Paris.", ["She died in Paris."]),
        ("The notes were published.", []),  # in another form
        ("Weather ruined crops everywhere.", ["Weather ruined crops everywhere."]),
        ("The answer is Olav [2].", []),
        ("It is so.", []),  # claims nothing
        ("", []),
        (" \n ", []),
    ],
)
def test_what_is_marked(answer: str, found: list[str]) -> None:
    assert marked(answer) == found


@pytest.mark.parametrize(
    ("passage", "answer"),
    [
        ("Turing was born in \u201cMaida Vale\u201d, London.", "Turing was born in Maida Vale."),
        ("Turing (1912\u20131954) lived in London.", "Turing died in 1954."),
        ("Turing (1912-1954) died in London.", "Turing died in 1954."),
        ("It was the Queen's ship.", "It was the Queen\u2019s ship."),
        ("It was the Queen\u2019s ship.", "It was the Queen's ship."),
        ("The \xabU.S.\xbb Navy paid for it.", "The US Navy paid."),
    ],
)
def test_marks_around_words_and_ranges_of_years_hide_nothing(passage: str, answer: str) -> None:
    passages = [Passage("p", "", f"{passage} Turing died.")]
    assert unsupported_spans(answer, passages) == []


def test_the_questions_words_claim_nothing() -> None:
    answer = "The mayor of Oslo lives in London."
    assert marked(answer) == [answer]
    assert marked(answer, "Where does the mayor of Oslo live or lives?") == []


@given(st.text(max_size=80))
def test_spans_lie_in_order_within_any_text(text: str) -> None:
    spans = unsupported_spans(text, PASSAGES)
    flat = [at for span in spans for at in span]
    assert flat == sorted(flat) and all(0 <= at <= len(text) for at in flat)
    assert all(text[a:b].strip() for a, b in spans)
    assert not unsupported_spans(PASSAGES[0].text, PASSAGES)


WORDS = st.sampled_from(
    [
        "notes",
        "noted",
        "note",
        "publish",
        "published",
        "was",
        "born",
        "borne",
        "Bergen",
        "bergens",
        "olav's",
    ]
)


@given(st.lists(WORDS | st.text(max_size=6), max_size=12).map(" ".join))
def test_both_ways_to_ask_agree(text: str) -> None:
    told = [(one.start, one.end) for one in support_of(text, PASSAGES) if not one.supported]
    assert unsupported_spans(text, PASSAGES) == told
