"""Match by words: yes and no, numbers, and 500 such answers against the rule of letters."""

from __future__ import annotations

from decimal import Decimal

import pytest

from neurorit.data.examples import Example, Passage
from neurorit.eval.metrics.matching import (
    match,
    match_all,
    match_substring,
    number_of,
    numbers_in,
    says_yes_or_no,
)
from neurorit.eval.metrics.scoring import score


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("No", "no"),
        ("no.", "no"),
        ("**Yes**", "yes"),
        ("No, it is not.", "no"),
        ("No it is not", "no"),
        ("Yes, they are both Danish", "yes"),
        ("The answer is no.", "no"),
        ("Answer: yes", "yes"),
        ("I do not know", None),
        ("No evidence is given.", None),
        ("No one knows.", None),
        ("There is no door.", None),
        ("It is known", None),
        ("yesterday", None),
        ("Either yes or no.", "no"),  # "yes" before "or" ends no clause
        ("It may be yes, it may be no.", None),
        ("", None),
    ],
)
def test_yes_and_no(line: str, said: str | None) -> None:
    assert says_yes_or_no(line) == said
    assert match(line, ["yes"]) is (said == "yes")
    assert match(line, ["No"]) is (said == "no")


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("1945", {"1945"}),
        ("in 1945.", {"1945"}),
        ("1,000 people", {"1000"}),
        ("1,000,000.50", {"1000000.5"}),
        ("3.5 km", {"3.5"}),
        ("12-14", {"12", "14"}),
        ("1912\u20131954", {"1912", "1954"}),
        ("-5 degrees", {"-5"}),
        ("the 5th", set()),
        ("B52, 4x4", set()),
        ("1, 2 and 3", {"1", "2", "3"}),
        ("5%, $7", {"5", "7"}),
        ("twenty-one of them", {"21"}),
        ("forty two", {"42"}),
        ("Six-time winner", {"6"}),
        ("no one, one of two", {"2"}),
    ],
)
def test_numbers(line: str, values: set[str]) -> None:
    assert numbers_in(line) == {Decimal(value) for value in values}


def test_what_is_a_number() -> None:
    assert number_of("5") == number_of("Five") == number_of("5.0") == number_of("five.") == 5
    assert number_of("1,945") == number_of("1945") == 1945
    assert all(number_of(text) is None for text in ("5 km", "V", "", "5th", "1912-1954"))


@pytest.mark.parametrize(
    ("line", "answer", "by_words", "by_letters"),
    [
        ("It is Paris, I think", "Paris", True, True),
        ("Parisian", "Paris", False, True),
        ("a cat", "at", False, True),
        ("the U.S.", "US", True, True),
        ("Beyonce", "Beyonc\u00e9", True, False),
        ("\u6771\u4eac\u3067\u3059", "\u6771\u4eac", True, True),
        ("well-known Rome-based", "Rome", True, True),
        ("The", "The", True, True),
        ("Paris", "The", False, False),
    ],
)
def test_words(line: str, answer: str, by_words: bool, by_letters: bool) -> None:
    assert match(line, [answer]) is by_words
    assert match_substring(line, [answer]) is by_letters
    assert match(f"{line}\nmore", [answer]) is by_words
    assert not match(f"other\n{line}", [answer])


def test_every_part_counts() -> None:
    assert match_all("Ada and Bo", [["Ada"], ["Bob", "Bo"]])
    assert not match_all("Ada", [["Ada"], ["Bo"]])


FORMS = {
    "said": ("{}", "{}.", "The answer is {}.", "Answer: {}", "It is {}"),
    "not said": (
        "I do not know",
        "unknown, as noted",
        "It was known in 1945",
        "Nobody; 1,573",
    ),
}


def five_hundred() -> list[tuple[str, str, bool]]:
    """(answer, line, whether the line says it) of 500 yes/no and number answers."""
    golds = [*("yes", "no") * 5, *map(str, range(1, 46))]
    cases = []
    for gold in golds:
        cases += [(gold, form.format(gold), True) for form in FORMS["said"]]
        cases += [(gold, form, False) for form in FORMS["not said"]]
    return (cases + cases)[:500]


def test_five_hundred_yes_no_and_number_answers() -> None:
    """By words all are right; by letters every refusal says "no", and 1945 six numbers."""
    cases = five_hundred()
    assert len(cases) == 500
    assert all(match(line, [gold]) is said for gold, line, said in cases)
    wrong = sum(match_substring(line, [gold]) is not said for gold, line, said in cases)
    assert wrong == 31


def test_what_has_no_answer_is_answered_by_a_refusal() -> None:
    example = Example(
        "u",
        "Who painted it?",
        (),
        (Passage("p", "", "Tiles.", "distractor"),),
        {"unanswerable": True},
    )

    def scores(text: str) -> tuple[bool, bool, bool, float, bool]:
        p = score("a", "clean", example, example.passages, "k", text)
        return p.em, p.match, p.match_substring, p.f1, p.abstained

    assert scores("") == scores("I don't know.") == (True, True, True, 1.0, True)
    assert scores("Ada") == (False, False, False, 0.0, False)
