"""Long texts into passages: whole sentences up to so many words, 100 as in DPR and the paper.

No word is lost or doubled. It knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterator

from retrieval.sentences import sentences

WORDS = 100


def chunks(text: str, words: int = WORDS) -> Iterator[str]:
    """Pieces of at most `words` words, cut between sentences where a sentence is no longer itself.

    Raises ValueError for fewer than one word.
    """
    if words < 1:
        raise ValueError(f"a chunk needs at least 1 word, not {words}")
    held: list[str] = []
    for sentence in sentences(text):
        parts = sentence.split()
        if held and len(held) + len(parts) > words:
            yield " ".join(held)
            held = []
        while len(parts) > words:
            yield " ".join(parts[:words])
            parts = parts[words:]
        held += parts
    if held:
        yield " ".join(held)
