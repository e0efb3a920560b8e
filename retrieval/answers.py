"""Answer strings: SQuAD normalisation, and whether a text holds an answer.

Both noise mixing and the metrics rest on it. It knows nothing of passages, ranks or scores.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from functools import lru_cache

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@lru_cache(maxsize=65_536)
def normalize_answer(text: str) -> str:
    """SQuAD normalisation: lower-case, drop ASCII punctuation and articles, collapse spaces."""
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def held_answer(text: str, answers: Sequence[str]) -> str | None:
    """The first of the answers that stands in the text as whole words, normalised; else None.

    An answer that normalises to nothing ("The") cannot be looked for and is never held.
    """
    padded = f" {normalize_answer(text)} "
    for answer in answers:
        wanted = normalize_answer(answer)
        if wanted and f" {wanted} " in padded:
            return answer
    return None


def replace_answers(text: str, answers: Sequence[str], value: str) -> str:
    """The text with every answer in it, as whole words and in any case, replaced by `value`."""
    longest = sorted({a for a in answers if a.strip()}, key=len, reverse=True)
    if not longest:
        return text
    pattern = "|".join(re.escape(answer) for answer in longest)
    return re.sub(rf"(?<!\w)(?:{pattern})(?!\w)", lambda _: value, text, flags=re.IGNORECASE)
