"""Where a sentence ends: by marks and the letter that follows, for languages that write so.

It knows nothing of passages.
"""

from __future__ import annotations

import re

# An end of a sentence: its mark, closing quotes, space, and an opening that is no lower case.
_END = re.compile(r"(?<=[.!?])([\"')\]]*)\s+(?=[^\sa-z])")


def sentences(text: str) -> list[str]:
    """The sentences of a text, in order, with their marks; together they hold all its words."""
    parts = _END.sub(lambda found: f"{found[1]}\0", text).split("\0")
    return [part for part in (one.strip() for one in parts) if part]
