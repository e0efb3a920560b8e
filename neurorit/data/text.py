"""Words and sentences of running text, also of scripts that put no space between words.

In Chinese, Japanese, Thai, Lao, Khmer and Burmese a character stands for a word; Korean has spaces,
but hangs endings to its words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# The inside of a class of a regular expression.
UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f"  # Burmese
    "\u1780-\u17ff"  # Khmer
    "\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff"  # kana, bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)
HANGUL = "\u1100-\u11ff\uac00-\ud7af"

# A character with the marks that follow it, or what stands between spaces.
_WORD = re.compile(rf"[{UNSPACED}][^\w\s]*|[^\s{UNSPACED}]+")


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where each word begins and ends, in order; all that is no space belongs to one."""
    return [found.span() for found in _WORD.finditer(text)]


def words(text: str) -> list[str]:
    """The words of a text; where scripts have spaces, what `str.split` gives."""
    return _WORD.findall(text)


# English words that carry no answer by themselves.
STOP_WORDS = frozenset(
    words(
        "a about after all also an and any are as at be because been before being between both but "
        "by can could did do does for from had has have he her hers him his how i if in into is it "
        "its just me more most my no nor not of on only or other our over she should so some such "
        "than that the their them then there these they this those through to under up was we were "
        "what when where which while who whom whose why will with would you your"
    )
)

_MARKS = ".!?\u0964\u0965\u061f\u06d4"  # also of Hindi, Arabic and Urdu
_WIDE = "\u3002\uff01\uff1f\uff61"
_WIDE_CLOSING = "\u300d\u300f\uff09\u201d\u2019"
# An end of a sentence: its mark, closing quotes, space, and an opening that is no lower case;
# or a mark that needs no space after it, with what closes behind it.
_END = re.compile(
    rf"(?<=[{_MARKS}])([\"')\]\u201d\u2019]*)\s+(?=[^\sa-z])"
    rf"|(?<=[{_WIDE}])([{_WIDE_CLOSING}\"')\]]*)\s*(?![{_WIDE}{_WIDE_CLOSING}])"
)
_CLOSED = re.compile(rf"[{_WIDE}][{_WIDE_CLOSING}\"')\]]*$")


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Where each sentence begins and ends, in order, with its marks and without space around it."""
    cuts = [0]
    for found in _END.finditer(text):
        cuts += [found.start() + len(found[1] or found[2] or ""), found.end()]
    cuts.append(len(text))
    spans = []
    for start, end in zip(cuts[::2], cuts[1::2], strict=True):
        piece = text[start:end]
        if bare := piece.strip():
            start += len(piece) - len(piece.lstrip())
            spans.append((start, start + len(bare)))
    return spans


def sentences(text: str) -> list[str]:
    """The sentences of a text, in order, with their marks; together they hold all its words."""
    return [text[start:end] for start, end in sentence_spans(text)]


def joined(parts: Iterable[str]) -> str:
    """Sentences as one text, with a space where their script has one."""
    made = ""
    for part in parts:
        made += part if not made or _CLOSED.search(made) else f" {part}"
    return made
