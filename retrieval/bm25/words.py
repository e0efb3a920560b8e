"""Words of a text as BM25 counts them: stems of a language, in the plainest form of their letters.

So that a word is found in whatever script, normal form, width or digits it is written. Of scripts
without spaces every character is a word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

from neurorit.core.errors import BadInput
from neurorit.data.letters import inner_marks, plain, spelt_out
from neurorit.data.text import UNSPACED

ENGLISH, PLAIN = "english", "none"
TOKENS = "marks, plain letters, 2"  # how texts are cut: what was made of other words is made again
_STOPPED = (
    *("chinese", "danish", "dutch", "english", "french", "german", "italian", "korean"),
    *("norwegian", "portuguese", "russian", "spanish", "swedish", "turkish"),
)  # languages of which bm25s knows stop words
# There an umlaut is nothing rare, and a second spelling of each would count it twice.
_UMLAUTS = (
    *("danish", "dutch_porter", "estonian", "finnish", "german", "hungarian", "norwegian"),
    *("swedish", "turkish"),
)
# Letters beside a to z that a stemmer knows, of languages written in Latin ones.
_OWN = {
    **{"english": "", "porter": "", "lovins": "", "german": "\xe4\xf6\xfc\xdf"},
    **{"french": "\xe0\xe2\xe6\xe7\xe8\xe9\xea\xeb\xee\xef\xf4\xf9\xfb\xfc\xff\u0153"},
    **{
        "spanish": "\xe1\xe9\xed\xf3\xfa\xfc\xf1",
        "italian": "\xe0\xe1\xe8\xe9\xec\xed\xf2\xf3\xf9\xfa",
    },
    **{
        "portuguese": "\xe0\xe1\xe2\xe3\xe7\xe9\xea\xed\xf3\xf4\xf5\xfa",
        "swedish": "\xe5\xe4\xe9\xf6",
    },
    **{
        "danish": "\xe6\xe9\xf8\xe5",
        "norwegian": "\xe6\xe9\xf2\xf4\xf8\xe5",
        "finnish": "\xe5\xe4\xf6",
    },
}
_KNOWN = 500_000  # words held at once
# Thai, Lao, Burmese and Khmer digits make numbers, not words of one character.
_DIGITS = "\u0e50-\u0e59\u0ed0-\u0ed9\u1040-\u1049\u1090-\u1099\u17e0-\u17e9"
_OWN_DIGIT = re.compile(f"[{_DIGITS}]")


def check_language(name: str) -> None:
    """Raise BadInput for a language of which neither stems nor stop words are known."""
    known = sorted({PLAIN, *_STOPPED, *_stemmed()})
    if name not in known:
        raise BadInput(f"‹language={name}›: it is one of {', '.join(known)}")


def words_settings(language: str) -> dict[str, Any]:
    """How words are made, for a manifest."""
    return {
        "stemmer": language if language in _stemmed() else PLAIN,
        "stopwords": language if language in _STOPPED else PLAIN,
        "tokens": TOKENS,
    }


def words_of(texts: Sequence[str], language: str = ENGLISH) -> list[list[str]]:
    """The words of texts as BM25 counts them: stems, without stop words, in a known language.

    Words of one ASCII letter or digit are none. A word with an umlaut also counts as written
    without it (Zuerich), but in languages that are full of them.
    """
    words = _words(language)
    if len(words) > _KNOWN:
        words.clear()
    ascii_tokens, tokens = _patterns()
    found = []
    for text in texts:
        if text.isascii():
            split = ascii_tokens(text.lower())
        else:
            text = unicodedata.normalize("NFKC", text).lower()
            if _OWN_DIGIT.search(text):
                text = _OWN_DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0])), text)
            split = tokens(text)
        found.append(list(chain.from_iterable(map(words.__getitem__, split))))
    return found


class _Words(dict[str, tuple[str, ...]]):
    """Token -> the words that it counts as: mostly one, none for a stop word."""

    def __init__(self, language: str) -> None:
        import bm25s
        import Stemmer

        super().__init__()
        self._language = language
        self._own = _OWN.get(language)
        self._stemmer = Stemmer.Stemmer(language) if language in _stemmed() else None
        stopped: Any = bm25s.tokenization._infer_stopwords(language if language in _STOPPED else [])
        self._stopped = frozenset(stopped)

    def __missing__(self, token: str) -> tuple[str, ...]:
        found = self._made(token)
        self[token] = found
        return found

    def _made(self, token: str) -> tuple[str, ...]:
        if token in self._stopped:
            return ()
        if token.isascii():
            return (self._stem(token),) if len(token) > 1 else ()
        token = re.sub(r"[\u00ad\u061c\u200b-\u200f\u2060\ufeff]", "", token)
        # A letter that the language does not have is none to its stemmer: Gunes, as it is typed.
        foreign = self._own is not None and not all(c < "\x80" or c in self._own for c in token)
        spellings = [self._stem(plain(token)) if foreign else plain(self._stem(token))]
        if self._language not in _UMLAUTS and (other := spelt_out(token)) != plain(token):
            spellings.append(plain(self._stem(other)))
        return tuple(
            one for one in dict.fromkeys(spellings) if one and not (len(one) == 1 and one.isdigit())
        )

    def _stem(self, token: str) -> str:
        return self._stemmer.stemWord(token) if self._stemmer is not None else token


_words = lru_cache(maxsize=4)(_Words)


@lru_cache(maxsize=1)
def _patterns() -> tuple[Any, Any]:
    """What splits an ASCII text, and any other, into tokens."""
    letter = rf"[^\W{UNSPACED}]"
    inner = rf"(?:{letter}|[{inner_marks()}])*"
    return re.compile(r"[a-z0-9_]+").findall, re.compile(rf"[{UNSPACED}]|{letter}{inner}").findall


def _stemmed() -> list[str]:
    import Stemmer

    algorithms: list[str] = Stemmer.algorithms()
    return algorithms
