"""Answer strings: SQuAD normalisation, and whether a text holds an answer.

`normalize_answer` is what the metrics rest on, and it is SQuAD's to the letter. `held_answer`, by
which noise is kept from holding an answer, is stricter: it also knows Unicode's quotes, dashes and
accents, parts of hyphenated words, possessives, and scripts without spaces.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from neurorit.data.text import HANGUL, UNSPACED

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_APART = str.maketrans(string.punctuation, " " * len(string.punctuation))
_ACCENTS = re.compile("[\u0300-\u036f]")
_ALONE = re.compile(f"[{UNSPACED}{HANGUL}]")
_APOSTROPHES, _DASHES = "'\u2018\u2019\u02bc\u2032`\u00b4", "\\-\u2010-\u2015\u2212"
# A letter or digit of a script with spaces: what an answer must not be cut out of.
_LETTER = rf"[^\W{UNSPACED}{HANGUL}]"


@lru_cache(maxsize=65_536)
def normalize_answer(text: str) -> str:
    """SQuAD normalisation: lower-case, drop ASCII punctuation and articles, collapse spaces."""
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def held_answer(text: str, answers: Sequence[str]) -> str | None:
    """The first of the answers that stands in the text as whole words; else None.

    Both are compared without case, articles, accents and forms of the same letter, once with
    punctuation dropped (U.S. is US) and once with a space in its place (1912-1954 holds 1954). Of a
    script without spaces every character is a word. An answer that normalises to nothing ("The")
    cannot be looked for and is never held.
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


def replace_answers(text: str, answers: Sequence[str], value: str) -> str:
    """The text with every answer in it, as whole words and in any case, replaced by `value`."""
    longest = sorted({a for a in answers if a.strip()}, key=len, reverse=True)
    if not longest:
        return text
    pattern = "|".join(_pattern(answer) for answer in longest)
    return re.sub(pattern, lambda _: value, text, flags=re.IGNORECASE)


@lru_cache(maxsize=8_192)
def _forms(text: str) -> tuple[str, str]:
    """The text with its punctuation dropped, and with spaces for it."""
    if text.isascii():
        dropped, spaced = text, text.translate(_APART)
    else:
        # Marks that are no accents, as of Japanese and Korean, are put together with theirs again.
        bare = _ACCENTS.sub("", unicodedata.normalize("NFKD", text))
        folded = unicodedata.normalize("NFKC", bare).casefold()
        apart = _ALONE.sub(r" \g<0> ", folded)
        dropped, spaced = apart.translate(_DROPPED), apart.translate(_SPACED)
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
