"""Match: whether an answer's first line says an accepted answer, as words and not as letters.

Yes and no, and numbers, have rules of their own: "I do not know" says no "no", "1945" no "5", and
"1,000" says "1000".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

from neurorit.data.answers import held_answer, normalize_answer

YES_NO = ("yes", "no")
# A first "no" before these answers the question; before a noun it belongs to that ("No evidence").
_AFTER_NO = (
    "it|he|she|they|i|we|you|this|that|these|those|there|the|its|his|her|their|only|not|because|"
    "since|as|but|is|are|was|were|do|does|did|has|have|had|sir|madam"
)
_FIRST = re.compile(
    rf"^\W*(?:(yes)\b|(no)(?=\s*(?:[^\w\s'\u2019-]|$)|\s+(?:{_AFTER_NO})\b))", re.IGNORECASE
)
# Elsewhere it must stand at the end of what is said: "The answer is no."
_LAST = re.compile(r"(?<![\w'\u2019-])(yes|no)(?=\s*(?:[^\w\s'\u2019-]|$))", re.IGNORECASE)
_DIGITS = re.compile(
    r"(?<![\w.])(?:(?<![\d\u2013])[-\u2212])?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\w|[.,]\d)"
)
_UNITS_TEXT = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen
"""
_UNITS = _UNITS_TEXT.split()
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS = {word: Decimal(value) for value, word in enumerate(_UNITS)} | {
    ten + joint + (unit or ""): Decimal(10 * (i + 2) + (_UNITS.index(unit) if unit else 0))
    for i, ten in enumerate(_TENS)
    for unit in (None, *_UNITS[1:10])
    for joint in (("",) if unit is None else (" ", "-"))
}
_SPELLED = re.compile(
    r"(?<![\w-])(?:" + "|".join(sorted(_WORDS, key=len, reverse=True)) + r")(?!\w)"
)
# "No one knows", "one of them" and "the one" count nothing.
_PRONOUN = re.compile(
    r"\b(?:no|any|every|some|the|this|that|which|each|another) one\b|(?<![\w-])one (?:of|another)\b"
)


def match(prediction: str, answers: Sequence[str]) -> bool:
    """An accepted answer stands in the prediction's first line, as whole words.

    Words are compared as `neurorit.data.answers.held_answer` does; an answer that is yes or no, or
    a number, by `says_yes_or_no` and `numbers_in`. An answer that normalises to nothing ("The")
    must be equal. Nothing but white space matches nothing.
    """
    if not prediction.strip():
        return False
    line = prediction.strip().splitlines()[0]
    return any(_says(line, answer) for answer in answers)


def match_all(prediction: str, parts: Sequence[Sequence[str]]) -> bool:
    """As `match`, of every part of an answer: see `neurorit.data.examples.Example.parts`."""
    return all(match(prediction, forms) for forms in parts)


def match_substring(prediction: str, answers: Sequence[str]) -> bool:
    """A normalised answer is a substring of the prediction's first line (docs/method.md).

    An answer that normalises to nothing ("The") would be a substring of anything; it must be equal.
    """
    if not prediction.strip():
        return False
    line = normalize_answer(prediction.strip().splitlines()[0])
    golds = [normalize_answer(answer) for answer in answers]
    return any(gold in line if gold else gold == line for gold in golds)


def match_substring_all(prediction: str, parts: Sequence[Sequence[str]]) -> bool:
    """As `match_substring`, of every part of an answer."""
    return all(match_substring(prediction, forms) for forms in parts)


def says_yes_or_no(line: str) -> str | None:
    """`yes` or `no` where the line says one of them, None where it says neither or both.

    It counts as the first word ("No, it is not"), or else at the end of a clause ("The answer is
    no"); "no evidence", "know" and "there is no door" say neither.
    """
    first = _FIRST.search(line)
    if first:
        return (first[1] or first[2]).lower()
    said = {found.lower() for found in _LAST.findall(line)}
    return said.pop() if len(said) == 1 else None


def number_of(answer: str) -> Decimal | None:
    """The number that an answer is, in digits or as a word up to ninety-nine; None for others."""
    text = answer.strip().lower().rstrip(".")
    if text in _WORDS:
        return _WORDS[text]
    whole = _DIGITS.fullmatch(text)
    return _value(whole[0]) if whole else None


def numbers_in(line: str) -> set[Decimal]:
    """The numbers in a line; 12 and 14 of "12-14", but neither 5 of "1945", "5th" nor "3.5"."""
    spelled = _PRONOUN.sub(" ", line.lower())
    return {_value(found) for found in _DIGITS.findall(line)} | {
        _WORDS[found] for found in _SPELLED.findall(spelled)
    }


def _says(line: str, answer: str) -> bool:
    normal = normalize_answer(answer)
    if normal in YES_NO:
        return says_yes_or_no(line) == normal
    number = number_of(answer)
    if number is not None:
        return number in numbers_in(line)
    if not normal:
        return normalize_answer(line) == normal
    return held_answer(line, [answer]) is not None


def _value(digits: str) -> Decimal:
    try:
        return Decimal(digits.replace(",", "").replace("\u2212", "-"))
    except InvalidOperation as error:  # pragma: no cover, the expression lets none through
        raise ValueError(digits) from error
