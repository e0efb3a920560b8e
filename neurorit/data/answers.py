"""Answer strings: SQuAD normalisation, and whether a text holds an answer.

`normalize_answer` is what the metrics rest on, and it is SQuAD's to the letter. `held_answer`, by
which noise is kept from holding an answer, is stricter: it also knows Unicode's quotes and dashes,
every way of writing a letter or digit, parts of hyphenated words, possessives, and scripts without
spaces.
"""

from __future__ import annotations

import math
import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from neurorit.data.letters import inner_marks, plain, spelt_out
from neurorit.data.text import HANGUL, UNSPACED

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_APART = str.maketrans(string.punctuation, " " * len(string.punctuation))
_ALONE = re.compile(f"[{UNSPACED}{HANGUL}]")
# A character with the marks that belong to it.
_CLUSTER = re.compile(rf".[{inner_marks()}]*", re.DOTALL)
_APOSTROPHES, _DASHES = "'\u2018\u2019\u02bc\u2032`\u00b4", "\\-\u2010-\u2015\u2212"
_YES_OR_NO = frozenset(("yes", "no", "true", "false"))
_APOSTROPHE = re.compile(f"([{_APOSTROPHES}])")
# A letter or digit of a script with spaces: what an answer must not be cut out of.
_LETTER = rf"[^\W{UNSPACED}{HANGUL}]"


@lru_cache(maxsize=65_536)
def normalize_answer(text: str) -> str:
    """SQuAD normalisation: lower-case, drop ASCII punctuation and articles, collapse spaces.

    Of composed text: an accent that is a character of its own makes no other word.
    """
    text = text if text.isascii() else unicodedata.normalize("NFC", text)
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def held_answer(text: str, answers: Sequence[str]) -> str | None:
    """The first of the answers that stands in the text as whole words; else None.

    Both are compared in the plainest form of their letters (`neurorit.data.letters`), also with
    umlauts spelt out (Zuerich), without articles, once with punctuation dropped (U.S. is US) and
    once with a space in its place (1912-1954 holds 1954). Of a script without spaces every
    character is a word. An answer that normalises to nothing ("The") cannot be looked for and is
    never held.
    """
    held = [f" {form} " for form in _forms(text)]
    for answer in answers:
        for wanted, where in zip(_forms(answer), held, strict=True):
            if wanted and f" {wanted} " in where:
                return answer
    return None


def answer_words(text: str) -> tuple[str, ...]:
    """The words of a text as `held_answer` compares them, with spaces for punctuation."""
    return tuple(_forms(text)[1].split())


def answer_texts(given: Any, choices: Sequence[Any] = ()) -> list[str]:
    """Answers as texts, in order and once each: of a text, number or boolean, or a list of them.

    true is "yes" (and "true"); 4.0 is "4"; a number among `choices` is the text of that choice.
    Raises ValueError, saying what it is, for what is no answer.
    """
    if given is None:
        return []
    listed = list(given) if isinstance(given, (list, tuple)) else [given]
    return list(dict.fromkeys(text for one in listed for text in _answer(one, choices)))


def is_yes_or_no(answers: Sequence[str]) -> bool:
    """Whether a question is answered by yes or no, which a passage need not hold to answer it."""
    return bool(answers) and all(normalize_answer(one) in _YES_OR_NO for one in answers)


def _answer(one: Any, choices: Sequence[Any]) -> tuple[str, ...]:
    if choices and isinstance(one, (int, float)) and not isinstance(one, bool):
        if one not in range(len(choices)):
            raise ValueError(f"'answers' names choice {one} of {len(choices)}, counted from 0")
        one = choices[int(one)]
    elif choices and isinstance(one, str) and len(one.strip()) == 1 and one not in choices:
        raise ValueError(
            f"'answers' holds {one!r}, the text of none of its choices; a number names one, from 0"
        )
    if isinstance(one, bool):
        return ("yes", "true") if one else ("no", "false")
    if isinstance(one, (int, float)):
        if one != one or one in (math.inf, -math.inf):
            raise ValueError("'answers' holds a number that is none")
        return (str(int(one)) if one == int(one) else str(one),)
    if isinstance(one, str) and one.strip():
        return (one,)
    kind = "an empty text" if isinstance(one, str) else "null" if one is None else "a list"
    kind = "an object" if isinstance(one, Mapping) else kind
    raise ValueError(f"'answers' holds {kind}; an answer is a text, a number or true or false")


def replace_answers(text: str, answers: Sequence[str], value: str) -> str:
    """The text with every answer in it, as whole words, replaced by `value`.

    Answers are found in any case, with other accents, digits and forms of their letters too.
    """
    spellings = {f(answer).strip() for answer in answers for f in (_searched, spelt_out)} - {""}
    if not spellings:
        return text
    longest = sorted(spellings, key=lambda one: (-len(one), one))
    pattern = re.compile("|".join(_pattern(one) for one in longest))
    if text.isascii():
        return _spliced(text, [found.span() for found in pattern.finditer(text.lower())], value)
    # Searched is the plain form; what is replaced, the letters with their marks it came from.
    clusters = [found.span() for found in _CLUSTER.finditer(text)]
    plainly = [_searched(text[start:end]) for start, end in clusters]
    places = [at for at, part in zip(clusters, plainly, strict=True) for _ in part]
    spans = [
        (places[found.start()][0], places[found.end() - 1][1])
        for found in pattern.finditer("".join(plainly))
    ]
    return _spliced(text, spans, value)


def _spliced(text: str, spans: Sequence[tuple[int, int]], value: str) -> str:
    parts, at = [], 0
    for start, end in spans:
        parts += [text[at:start], value]
        at = end
    return "".join([*parts, text[at:]])


def _searched(text: str) -> str:
    """`plain`, with apostrophes as they are: a pattern knows them in all their forms."""
    parts = _APOSTROPHE.split(text)
    return "".join(part if _APOSTROPHE.match(part) else plain(part) for part in parts)


@lru_cache(maxsize=8_192)
def _forms(text: str) -> tuple[str, ...]:
    """The text with its punctuation dropped, and with spaces for it; then with umlauts spelt out.

    Four forms, of which mostly two are the same.
    """
    if text.isascii():
        return _two_forms(text.lower(), text.translate(_APART)) * 2
    first, other = plain(text), spelt_out(text)
    forms = _folded_forms(first)
    return forms + (forms if other == first else _folded_forms(other))


def _folded_forms(folded: str) -> tuple[str, str]:
    apart = _ALONE.sub(r" \g<0> ", folded)
    return _two_forms(apart.translate(_DROPPED), apart.translate(_SPACED))


def _two_forms(dropped: str, spaced: str) -> tuple[str, str]:
    return normalize_answer(dropped), " ".join(_ARTICLES.sub(" ", spaced.lower()).split())


class _Marks(dict[int, str]):
    """Characters that are no letters, digits or vowel signs, with what stands for them."""

    def __init__(self, instead: str, kinds: str) -> None:
        super().__init__()
        self._instead = instead
        self._kinds = kinds

    def __missing__(self, code: int) -> str:
        kind = unicodedata.category(chr(code))
        made = "" if kind == "Cf" else self._instead if kind[0] in self._kinds else chr(code)
        self[code] = made
        return made


_DROPPED = _Marks("", "P")
_SPACED = _Marks(" ", "PSZC")


def _pattern(answer: str) -> str:
    """An expression for an answer that no letter goes on from, with any apostrophe, dash, space."""
    made = "".join(
        r"\s+"
        if part.isspace()
        else f"[{_APOSTROPHES}]"
        if part in _APOSTROPHES
        else f"[{_DASHES}]"
        if re.match(f"[{_DASHES}]", part)
        else re.escape(part)
        for part in re.findall(r"\s+|\S", answer.strip())
    )
    before = f"(?<!{_LETTER})" if re.match(rf"{_LETTER}|\W", answer.strip()) else ""
    after = f"(?!{_LETTER})" if re.search(rf"(?:{_LETTER}|\W)$", answer.strip()) else ""
    return f"{before}{made}{after}"
