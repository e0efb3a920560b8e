"""Letters as a reader compares them: without case, accents, widths and other forms of one letter.

Search by words and the filter that keeps answers out of noise both compare what is made here.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

# Marks that a reader may leave out: accents, Slavonic and Syriac ones, vowels of Hebrew and Arabic,
# the dot below of Devanagari. Vowel signs of other scripts are letters, and stay.
_OPTIONAL = (
    "\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a"
    "\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u0711\u0730-\u074a"
    "\u08d3-\u08ff\u093c\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f"
)
# What no decomposition says: letters that stand for others, and forms of one letter.
_OTHER = {
    **{"\u00e6": "ae", "\u0153": "oe", "\u00f8": "o", "\u0111": "d", "\u00f0": "d"},
    **{"\u00fe": "th", "\u0131": "i", "\u0142": "l", "\u0138": "k", "\u014b": "n", "\u0259": "a"},
    # Arabic: the elongation, Persian and final forms of ya, kaf and ha.
    **{"\u0640": "", "\u0649": "\u064a", "\u06cc": "\u064a", "\u06a9": "\u0643"},
    **{"\u0629": "\u0647", "\u06be": "\u0647", "\u06d5": "\u0647", "\u0671": "\u0627"},
    # Letters used as apostrophes: okina, hamza, ayin.
    "\u0901": "\u0902",  # the moon of Devanagari's nasal is a dot as often
    **dict.fromkeys("\u02b9\u02bb\u02bc\u02bd\u02be\u02bf\u02c8\ua78c", "'"),
}
_LATIN = re.compile(r"LATIN SMALL LETTER ([A-Z]) WITH ")
_SPELT_OUT = str.maketrans(
    {
        **{"\u00e4": "ae", "\u00f6": "oe", "\u00fc": "ue", "\u00e5": "aa", "\u00f8": "oe"},
        **{"\u00c4": "Ae", "\u00d6": "Oe", "\u00dc": "Ue", "\u00c5": "Aa", "\u00d8": "Oe"},
    }
)
_UMLAUT = re.compile("[\u00e4\u00f6\u00fc\u00e5\u00f8\u00c4\u00d6\u00dc\u00c5\u00d8]")


# Devanagari writes a nasal before a consonant of its place as that or as a dot: हिन्दी, हिंदी.
_NASAL = re.compile(
    "\u0919\u094d(?=[\u0915-\u0918])|\u091e\u094d(?=[\u091a-\u091d])|\u0923\u094d(?=[\u091f-\u0922])|"
    "\u0928\u094d(?=[\u0924-\u0927])|\u092e\u094d(?=[\u092a-\u092d])"
)


class _Folded(dict[int, str]):
    """Character -> what a reader takes it for, in decomposed lower case."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        kind = unicodedata.category(char)
        if kind == "Cf" or (kind[0] == "M" and re.match(f"[{_OPTIONAL}]", char)):
            folded = ""
        elif kind == "Nd":
            folded = str(unicodedata.decimal(char))
        elif char in _OTHER:
            folded = _OTHER[char]
        elif kind == "Ll" and (latin := _LATIN.match(unicodedata.name(char, ""))):
            folded = latin[1].lower()
        else:
            folded = char
        self[code] = folded
        return folded


_FOLDED = _Folded()


def plain(text: str) -> str:
    """The text in lower case with its letters, digits and spaces in their plainest form.

    Accents, strokes, widths, ligatures, forms of one letter, optional vowel marks and what is not
    seen (soft hyphens, joiners) go; digits of every script are ASCII's. Vowel signs that are part
    of a word, as in Hindi, Bengali, Tamil or Thai, stay.
    """
    if text.isascii():
        return text.lower()
    bare = unicodedata.normalize("NFKD", text).casefold()
    # Casefolding may compose (and what it leaves of an I with a dot is a mark).
    bare = unicodedata.normalize("NFKD", bare).translate(_FOLDED)
    if "\u094d" in bare:
        bare = _NASAL.sub("\u0902", bare)
    return unicodedata.normalize("NFKC", bare)


def spelt_out(text: str) -> str:
    """`plain`, with the umlaut and its kin written as two letters: Zuerich, Soeren, Aarhus."""
    if text.isascii():
        return text.lower()
    composed = unicodedata.normalize("NFKC", text)
    if not _UMLAUT.search(composed):
        return plain(text)
    return plain(composed.translate(_SPELT_OUT))


@lru_cache(maxsize=1)
def inner_marks() -> str:
    """What goes on a word though it is no letter, as the inside of a class of an expression.

    All combining marks, and what joins or parts letters unseen.
    """
    marks = [
        code
        for code in (*range(0x300, 0x1_0000), *range(0x1_0000, 0x1_F000), *range(0xE0100, 0xE01F0))
        if unicodedata.category(chr(code))[0] == "M"
    ]
    spans: list[list[int]] = []
    for code in marks:
        if spans and code == spans[-1][1] + 1:
            spans[-1][1] = code
        else:
            spans.append([code, code])
    joined = "".join(f"{chr(first)}-{chr(last)}" for first, last in spans)
    return f"{joined}\u00ad\u061c\u200b-\u200f\u2060\ufeff"
