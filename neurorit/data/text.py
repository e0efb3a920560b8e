"""Scripts that put no space between words: a character of theirs stands for a word.

Chinese, Japanese, Thai, Lao, Khmer and Burmese; Korean has spaces, but hangs endings to its words.
It knows nothing of passages, answers or chunks.
"""

from __future__ import annotations

import re

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
