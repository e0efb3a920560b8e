"""What a judge's reply says: by the alternatives of its first token, else by its text.

Alternatives count only where the words asked for hold half of the probability: below that, the
judge was about to say something else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from neurorit.core.endpoint.replies import CallFailed, read_piece, read_reply

GRADES = ("1", "2", "3", "4", "5")
LEAST_MASS = 0.5
_WORD = re.compile(r"[^\W_]+")


def read_verdict(reply: Any) -> Literal["right", "wrong"] | None:
    """Yes or No in a chat completion; None where it says neither."""
    word = _said(reply, ("yes", "no"))
    return None if word is None else ("right" if word == "yes" else "wrong")


def read_choice(reply: Any) -> str | None:
    """`a` or `b` in a chat completion; None where it says neither."""
    return _said(reply, ("a", "b"))


def read_grade(reply: Any, *, passing: float) -> Literal["right", "wrong"] | None:
    """Right where the expected grade, 1 to 5, is at least `passing`; None where there is none."""
    masses, word = _first(reply, GRADES)
    total = sum(masses.values())
    if total >= LEAST_MASS:
        grade = sum(int(digit) * mass for digit, mass in masses.items()) / total
    elif word in GRADES:
        grade = float(word)
    else:
        return None
    return "right" if grade >= passing else "wrong"


def confidence_of(reply: Any, *, passing: float | None = None) -> float | None:
    """Of the first token's probability for the words asked for, the share that is the verdict's.

    passing: of a judge that gives grades. None where the verdict is read from the text.
    """
    masses, _ = _first(reply, ("yes", "no") if passing is None else GRADES)
    total = sum(masses.values())
    if total < LEAST_MASS:
        return None
    if passing is None:
        return max(masses.values()) / total
    passed = sum(mass for digit, mass in masses.items() if int(digit) >= passing) / total
    return passed if read_grade(reply, passing=passing) == "right" else 1 - passed


def _said(reply: Any, words: tuple[str, str]) -> str | None:
    masses, word = _first(reply, words)
    one, other = (masses[w] for w in words)
    if one + other >= LEAST_MASS and one != other:
        return words[0] if one > other else words[1]
    return word if word in words else None


def _first(reply: Any, words: Sequence[str]) -> tuple[Mapping[str, float], str]:
    """Probability of each word as the first token, and the first word after any thinking.

    Nothing for a broken reply. Raises CallFailed for one that never came to its verdict: it would
    be the same again.
    """
    masses = dict.fromkeys(words, 0.0)
    try:
        choice = reply["choices"][0]
        content = (choice.get("logprobs") or {}).get("content") or []
        for alternative in content[0]["top_logprobs"] if content else []:
            word = _word(str(alternative["token"]))
            if word in masses:
                logprob = float(alternative["logprob"])
                # Not a number says nothing; min(0, nan) would be certainty.
                masses[word] += 0.0 if math.isnan(logprob) else math.exp(min(0.0, logprob))
        whole = read_piece(reply)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return dict.fromkeys(words, 0.0), ""
    text, unread = read_reply(whole.text, whole.finish_reason, whole.reasoning)
    thought = bool(whole.reasoning.strip()) or text != whole.text
    if not text.strip() and thought and unread:
        raise CallFailed(
            "the judge thinks and came to no verdict: raise its thinking_tokens (or the "
            "max_completion_tokens of its request)"
        )
    return masses, _word(text)


def _word(text: str) -> str:
    """The first word, in small letters: Yes of `**Yes**, it does`, Not of `Not sure`."""
    first = _WORD.search(text)
    return first[0].lower() if first else ""
