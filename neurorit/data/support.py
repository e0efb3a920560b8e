"""Which sentences of an answer no passage supports, told by the words that they share.

A sentence is supported by a passage that holds all its particulars (numbers and names) and most of
its other words; the question's words and those that frame an answer say nothing. Measured by
benchmarks/support.py. It reads words, not meaning: "not" and "never" change nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from neurorit.data.answers import normalize_answer
from neurorit.data.citations import without_citations
from neurorit.data.examples import Passage
from neurorit.data.text import STOP_WORDS, sentence_spans

# Words around an answer, beside the question's own.
_FRAME_TEXT = """
it its is was are were be been has had have he she they his her their this that these those there
here in on at of to by for from with as and or so also answer correct would according passage
passages document documents context text provided given based says states said stated i think
believe known called named who which what when where name
"""
FRAME = frozenset(_FRAME_TEXT.split())
# Of the words that are no particulars so many must stand in the passage.
_SHARED = 0.7
_PARTICULAR = re.compile(r"\d|^[^\W\d_a-z][^\W_]*", re.UNICODE)
_ENDINGS = ("ings", "ing", "edly", "ed", "es", "s", "ly")
_SHORTEST = 4  # letters that stay of a word without its ending


def unsupported_spans(
    answer: str, passages: Sequence[Passage], question: str = ""
) -> list[tuple[int, int]]:
    """Where the sentences of `answer` that no passage supports begin and end; none for no answer.

    A sentence of which nothing but the question's words and a frame is left claims nothing.
    """
    held = [_stems(f"{p.title} {p.text}") for p in passages]
    plain = FRAME | STOP_WORDS | set(_words(question))
    return [
        (start, end)
        for start, end in sentence_spans(answer)
        if not _supported(without_citations(answer[start:end]), held, plain)
    ]


def _supported(sentence: str, held: Sequence[set[str]], plain: Iterable[str]) -> bool:
    particulars: set[str] = set()
    others: set[str] = set()
    for place, raw in enumerate(sentence.split()):
        for word in _words(raw):
            if word in plain:
                continue
            # The first word of a sentence has a capital in any case.
            special = any(letter.isdigit() for letter in word) or (
                place > 0 and bool(_PARTICULAR.match(raw.lstrip("\"'(\u201c\u2018")))
            )
            (particulars if special else others).add(_stem(word))
    if not particulars and not others:
        return True
    return any(
        particulars <= words and len(others & words) >= _SHARED * len(others) for words in held
    )


def _words(text: str) -> list[str]:
    return normalize_answer(text).split()


def _stems(text: str) -> set[str]:
    return {_stem(word) for word in _words(text)}


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _SHORTEST:
            return word[: -len(ending)]
    return word
