"""Which sentences of an answer no passage supports, told by the words that they share.

A sentence is supported by a passage that holds all its particulars (numbers and names) and most of
its other words; the question's words and those that frame an answer say nothing. Measured by
benchmarks/support.py. It reads words, not meaning: "not" and "never" change nothing. What the words
leave in doubt a judge can be asked about (`neurorit.eval.judges.support`).
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from typing import NamedTuple

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
# Where fewer of all words stand in any passage, none of them is what the sentence is about.
_ABOUT = 0.5
_PARTICULAR = re.compile(r"\d|^[^\W\d_a-z][^\W_]*", re.UNICODE)
# Within a word it is dropped, as ASCII's is. Other quotation marks and long dashes stand at words,
# and a hyphen parts numbers (1912-1954).
_APOSTROPHE = re.compile("(?<=\\w)[\u2018\u2019](?=\\w)")
_BETWEEN = re.compile("[\u2018-\u201f\u2039\u203a\xab\xbb\u2010-\u2015]|(?<=\\d)-(?=\\d)")
_ENDINGS = ("ings", "ing", "edly", "ed", "es", "s", "ly")
_SHORTEST = 4  # letters that stay of a word without its ending


def unsupported_spans(
    answer: str, passages: Sequence[Passage], question: str = ""
) -> list[tuple[int, int]]:
    """Where the sentences of `answer` that no passage supports begin and end; none for no answer.

    A sentence of which nothing but the question's words and a frame is left claims nothing.
    """
    held = [_Held(f"{p.title} {p.text}") for p in passages]
    plain = FRAME | STOP_WORDS | set(_words(question))
    return [
        (start, end)
        for start, end in sentence_spans(answer)
        if not _supported(without_citations(answer[start:end]), held, plain)
    ]


class Support(NamedTuple):
    """A sentence from `start` to `end` of an answer: whether a passage supports it by its words.

    doubtful: the words do not settle it. They do where one sentence of a passage holds all of them,
    and where no passage holds half of them.
    """

    start: int
    end: int
    supported: bool
    doubtful: bool


def support_of(answer: str, passages: Sequence[Passage], question: str = "") -> list[Support]:
    """Every sentence of an answer, in order; none for no answer."""
    held = [_stems(f"{p.title} {p.text}") for p in passages]
    stated = [
        _stems(f"{p.title} {p.text[start:end]}")
        for p in passages
        for start, end in sentence_spans(p.text)
    ]
    plain = FRAME | STOP_WORDS | set(_words(question))
    found = []
    for start, end in sentence_spans(answer):
        particulars, others = _claims(without_citations(answer[start:end]), plain)
        claimed = particulars | others
        supported = _holds(particulars, others, held)
        if supported:
            doubtful = bool(claimed) and not any(claimed <= words for words in stated)
        else:
            most = max((len(claimed & words) for words in held), default=0)
            doubtful = most >= _ABOUT * len(claimed)
        found.append(Support(start, end, supported, doubtful))
    return found


class _Held:
    """The stems of a text, looked up one by one: most of its words no answer asks for."""

    def __init__(self, text: str) -> None:
        self._words = f" {' '.join(_words(text))} "

    def __contains__(self, stem: object) -> bool:
        # A stem begins the words that have it.
        place = self._words.find(f" {stem}")
        while place >= 0:
            end = self._words.index(" ", place + 1)
            if _stem(self._words[place + 1 : end]) == stem:
                return True
            place = self._words.find(f" {stem}", end)
        return False


def _supported(sentence: str, held: Sequence[Container[str]], plain: Iterable[str]) -> bool:
    return _holds(*_claims(sentence, plain), held)


def _claims(sentence: str, plain: Iterable[str]) -> tuple[set[str], set[str]]:
    """What a sentence claims: its particulars, and its other words."""
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
    return particulars, others


def _holds(particulars: set[str], others: set[str], held: Sequence[Container[str]]) -> bool:
    if not particulars and not others:
        return True
    return any(
        all(word in words for word in particulars)
        and sum(word in words for word in others) >= _SHARED * len(others)
        for words in held
    )


def _words(text: str) -> list[str]:
    return normalize_answer(_BETWEEN.sub(" ", _APOSTROPHE.sub("", text))).split()


def _stems(text: str) -> set[str]:
    return {_stem(word) for word in _words(text)}


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _SHORTEST:
            return word[: -len(ending)]
    return word
