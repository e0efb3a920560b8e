"""Passages that an answer cites by their number in the prompt: [2], [1, 3] or [1][3].

What follows a letter at once, as the index in `a[1]`, is no citation; nor is a number that no
passage has.
"""

from __future__ import annotations

import re

from neurorit.data.text import HANGUL, UNSPACED

_GROUP = r"\[\s*\d{1,4}(?:\s*,\s*\d{1,4})*\s*\]"
# Scripts without spaces have a citation close behind a word. Behind a bracket it goes on with what
# stands before that: the second of `a[1][2]` is none either.
_CITED = re.compile(rf"(?<![^\W{UNSPACED}{HANGUL}])(?<!\])(?:{_GROUP})+")


def cited(answer: str, count: int) -> list[int]:
    """The numbers from 1 to `count` that an answer cites, in its order, each once."""
    numbers = (int(n) for run in _CITED.findall(answer) for n in re.findall(r"\d+", run))
    return [n for n in dict.fromkeys(numbers) if 1 <= n <= count]


def without_citations(answer: str) -> str:
    """The answer with a space for everything in a citation's form, of whatever number."""
    return _CITED.sub(" ", answer)
