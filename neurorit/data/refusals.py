"""Which answers are refusals: empty ones, and those that say in words that there is no answer.

A system that was tuned to end at once refuses without a word; others say "I don't know". Both
count, each by its own name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from neurorit.core.errors import BadInput

Refusal = Literal["", "empty", "verbal"]

PATTERNS = (
    r"\b(?:i|we) (?:do not|don't|dont) (?:know|have (?:enough|sufficient|the|any) information)\b",
    r"\b(?:i am|i'm|we are) (?:not sure|unsure|not certain|"
    r"unable to (?:answer|determine|find|say))",
    r"\b(?:cannot|can not|can't|could not|couldn't|unable to) (?:be )?"
    r"(?:answer(?:ed)?|determin(?:e|ed)|found|find (?:the|an|any) answer|say for)\b",
    r"\b(?:not enough|insufficient|no (?:relevant|sufficient)?) ?"
    r"(?:information|evidence|context|answer)\b",
    r"\b(?:is|are|was|were|does|do|did)(?: not|n't) (?:explicitly |directly |clearly )?"
    r"(?:mention|provide|contain|state|specif|include|available|known|given|say|answer)",
    r"^\W*(?:unknown|unanswerable|no answer|not (?:mentioned|provided|known|available|stated|given)"
    r"|none of the (?:passages|documents))\b[^,;]*$",
)
"""What a refusal in words looks like, searched for in lower case in an answer's first line."""

_TURN = re.compile(r"\b(?:but|however|nevertheless)\b")
_GUESS = re.compile(r"\b(?:maybe|perhaps|possibly|probably|likely|guess|(?:may|might|could) be)\b")
_QUOTES = str.maketrans({"\u2019": "'", "\u2018": "'"})


def refusal_of(text: str, patterns: Sequence[str] = PATTERNS) -> Refusal:
    """How the text refuses: not at all (""), with nothing but white space, or in words.

    In words: a pattern is in the first line, and no guess comes after it; what follows a "but" or
    "however" must refuse too. "I am not sure, but it may be Rome" is an answer. Whether it is right
    is not looked at: an answer that holds an accepted one is no refusal, which the caller knows.
    Raises BadInput for a pattern that is no regular expression.
    """
    if not text.strip():
        return "empty"
    if not patterns:
        return ""
    found = _compiled(tuple(patterns))
    line = text.strip().splitlines()[0].lower().translate(_QUOTES)
    parts = [part for part in _TURN.split(line) if part.strip(" ,.;:")]
    hit = found.search(parts[-1]) if parts else None
    return "verbal" if hit and not _GUESS.search(parts[-1], hit.end()) else ""


@lru_cache(maxsize=64)
def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise BadInput(f"refusals: {pattern!r} is no regular expression: {error}") from error
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))
