"""Passages of a corpus that say the same as an earlier one, word for word or nearly.

Two passages are near duplicates when their sets of three words in a row overlap by a share that is
given (Jaccard). MinHash (Broder 1997, by `datasketch`) finds pairs that may be; their own words
decide. The text is read twice and never held. It knows nothing of vectors.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, repeat
from typing import Any

from retrieval.errors import BadInput
from retrieval.examples import Passage
from retrieval.ids import id_number

_HASHES = 128
_WORDS = 3
_FEW = 32
_FOUND = 0.99  # of pairs at the threshold, the share that a choice of bands must find

Read = Callable[[], Iterator[Passage]]


@dataclass(frozen=True)
class Duplicate:
    """A passage (its row in the corpus, from 0) that repeats an earlier one."""

    row: int
    id: str
    of: str
    similarity: float


@dataclass(frozen=True)
class Survey:
    """What a first reading found: the number of passages, and the repeats among them by row."""

    passages: int
    repeats: tuple[Duplicate, ...]

    @property
    def exact(self) -> int:
        """How many repeat another one word for word."""
        return sum(one.similarity == 1.0 for one in self.repeats)


def survey(read: Read, near: float = 0.0) -> Survey:
    """Read a corpus and find its repeats; `near`: the least overlap of a near duplicate (0: none).

    The first of those that repeat each other is none. Raises BadInput for an overlap out of range.
    """
    import numpy as np

    if near and not 0.5 <= near <= 1.0:
        raise BadInput(f"--near-duplicates {near}: an overlap from 0.5 to 1 is wanted")
    bands = _Bands(near) if near else None
    contents, keys = array("Q"), array("Q")
    for passage in read():
        words = _words(passage)
        contents.append(id_number(" ".join(words)))
        if bands is not None:
            keys.extend(bands.keys(words))
    alike = [np.frombuffer(contents, dtype=np.uint64)]
    if keys:
        alike += list(np.frombuffer(keys, dtype=np.uint64).reshape(len(contents), -1).T)
    pairs = sorted({pair for column in alike for pair in _equal(column)})
    if not pairs:
        return Survey(len(contents), ())
    rows = {row for pair in pairs for row in pair}
    held = {row: (p.id, _shingles(_words(p))) for row, p in enumerate(read()) if row in rows}
    found: dict[int, Duplicate] = {}
    for first, second in pairs:
        if first in found or second in found:
            continue
        share = _overlap(held[first][1], held[second][1])
        if contents[first] == contents[second] or (near and share >= near):
            same = 1.0 if contents[first] == contents[second] else min(share, 0.9999)
            found[second] = Duplicate(second, held[second][0], held[first][0], round(same, 4))
    return Survey(len(contents), tuple(found[row] for row in sorted(found)))


def without(passages: Iterator[Passage], repeats: tuple[Duplicate, ...]) -> Iterator[Passage]:
    """The passages of a corpus but for those rows."""
    gone = {one.row for one in repeats}
    return (passage for row, passage in enumerate(passages) if row not in gone)


class _Bands:
    """Hashes of bands of a MinHash: two passages that overlap enough share one, nearly surely."""

    def __init__(self, near: float) -> None:
        from datasketch import MinHash

        self._empty = MinHash(num_perm=_HASHES)
        sizes = (32, 16, 8, 4, 2, 1)
        self._size = next(s for s in sizes if 1 - (1 - near**s) ** (_HASHES // s) >= _FOUND)

    def keys(self, words: list[str]) -> list[int]:
        """One number for each band."""
        made = self._empty.copy()
        made.update_batch([shingle.encode("utf-8", "replace") for shingle in _shingles(words)])
        values = made.hashvalues
        return [
            id_number(f"{start} {values[start : start + self._size].tobytes().hex()}")
            for start in range(0, _HASHES, self._size)
        ]


def _equal(column: Any) -> Iterator[tuple[int, int]]:
    """Pairs of rows with an equal value: all of few, each with the first of many."""
    import numpy as np

    order = np.argsort(column, kind="stable")
    ordered = column[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    for start, end in zip(starts, [*starts[1:], len(column)], strict=True):
        alike = order[start:end].tolist()
        yield from (
            combinations(alike, 2) if len(alike) <= _FEW else zip(repeat(alike[0]), alike[1:])
        )


def _words(passage: Passage) -> list[str]:
    return f"{passage.title} {passage.text}".casefold().split()


def _shingles(words: list[str]) -> set[str]:
    if len(words) <= _WORDS:
        return {" ".join(words)}
    return {" ".join(words[i : i + _WORDS]) for i in range(len(words) - _WORDS + 1)}


def _overlap(first: set[str], second: set[str]) -> float:
    return len(first & second) / len(first | second)
