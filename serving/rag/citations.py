"""Which of the passages an answer rests on: those it names by number, or that hold its words.

It reads only; it says nothing of whether the answer is right.
"""

from __future__ import annotations

from collections.abc import Sequence

from neurorit.data.answers import held_answer
from neurorit.data.citations import cited as cited_numbers
from neurorit.data.examples import Passage

_LONGEST = 12


def cited(answer: str, passages: Sequence[Passage]) -> list[bool]:
    """For each passage, in a prompt's order, whether the answer cites it.

    An answer with passages' numbers in brackets cites these; one without cites the passages that
    hold it word for word, if it is short enough to be a quotation.
    """
    if numbers := cited_numbers(answer, len(passages)):
        return [i in numbers for i in range(1, len(passages) + 1)]
    words = answer.strip().rstrip(".")
    if not words or len(words.split()) > _LONGEST:
        return [False] * len(passages)
    return [held_answer(f"{p.title} {p.text}", [words]) is not None for p in passages]
