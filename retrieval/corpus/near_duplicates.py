"""Passages of a corpus that say the same as an earlier one, word for word or nearly.

Two passages are near duplicates when their sets of three words in a row overlap by a share that is
given (Jaccard). MinHash (Broder 1997, by `datasketch`) finds pairs that may be; their own words
decide. Held are eight bytes of every passage, those of its bands, and the shingles of some that may
be alike; the text is read again for these.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from neurorit.core.errors import BadInput
from neurorit.core.hashing import id_number
from neurorit.data.examples import Passage
from neurorit.data.text import words

_HASHES = 128
_WORDS = 3
_FEW = 32
_CHUNK = 1 << 20
_HALF = 32  # bits of a row in a pair
_HELD = 50_000  # passages whose shingles are in memory at once: about 50 MB of texts of 100 words
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
        raise BadInput(f"‹near_duplicates={near}›: an overlap from 0.5 to 1 is wanted")
    bands = _Bands(near) if near else None
    contents, keys = array("Q"), array("Q")
    for passage in read():
        tokens = _words(passage)
        contents.append(id_number(" ".join(tokens)))
        if bands is not None:
            keys.extend(bands.keys(tokens))
    whole = np.frombuffer(contents, dtype=np.uint64)
    pairs = [_equal(whole, few=1)]
    if keys:
        pairs += map(_equal, np.frombuffer(keys, dtype=np.uint64).reshape(len(contents), -1).T)
    found: dict[int, tuple[int, float]] = {}
    _judge(np.unique(np.concatenate(pairs)), whole, near, read, found)
    return Survey(len(contents), _named(found, read))


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

    def keys(self, tokens: list[str]) -> list[int]:
        """One number for each band."""
        made = self._empty.copy()
        made.update_batch([shingle.encode("utf-8", "replace") for shingle in _shingles(tokens)])
        values = made.hashvalues
        return [
            id_number(f"{start} {values[start : start + self._size].tobytes().hex()}")
            for start in range(0, _HASHES, self._size)
        ]


def _equal(column: Any, few: int = _FEW) -> Any:
    """uint64 [pairs]: rows with an equal value, as first * 2^32 + second, the first being smaller.

    All pairs of up to `few` such rows; of more, each with the first.
    """
    import numpy as np

    # Most values stand alone: only the rows of the others are put in order.
    ordered = np.sort(column)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(repeated):
        return np.zeros(0, dtype=np.uint64)
    rows = []
    for start in range(0, len(column), _CHUNK):
        part = column[start : start + _CHUNK]
        at = np.minimum(repeated.searchsorted(part), len(repeated) - 1)
        rows.append(np.flatnonzero(repeated[at] == part) + start)
    alike = np.concatenate(rows).astype(np.uint64)
    alike = alike[np.argsort(column[alike], kind="stable")]
    values = column[alike]
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    sizes = np.diff(np.append(starts, len(alike)))
    made = []
    for size in np.unique(sizes):
        runs = alike[starts[sizes == size][:, None] + np.arange(size)]
        first, second = np.triu_indices(size, 1)
        if size > few:
            first, second = first[: size - 1], second[: size - 1]
        made.append(((runs[:, first] << np.uint64(_HALF)) | runs[:, second]).ravel())
    return np.concatenate(made)


def _judge(
    pairs: Any, contents: Any, near: float, read: Read, found: dict[int, tuple[int, float]]
) -> None:
    """Put into `found`, in the pairs' order, each second row that repeats its first: row -> why.

    A row that was found repeats another one already, and nothing repeats it.
    """
    begun = 0
    while begun < len(pairs):
        # As many pairs as have their shingles held at once; the rest in further readings.
        ended, wanted = begun, set[int]()
        while ended < len(pairs) and len(wanted) < _HELD:
            first, second = _rows_of(pairs[ended])
            if contents[first] != contents[second] and not found.keys() & {first, second}:
                wanted |= {first, second}
            ended += 1
        held = {}
        if wanted:
            held = {row: _hashed(_words(p)) for row, p in enumerate(read()) if row in wanted}
        for pair in pairs[begun:ended]:
            first, second = _rows_of(pair)
            if first in found or second in found:
                continue
            if contents[first] == contents[second]:
                found[second] = (first, 1.0)
            elif near and (share := _overlap(held[first], held[second])) >= near:
                found[second] = (first, round(min(share, 0.9999), 4))
        begun = ended


def _named(found: dict[int, tuple[int, float]], read: Read) -> tuple[Duplicate, ...]:
    """The repeats by row, with their ids."""
    if not found:
        return ()
    wanted = found.keys() | {first for first, _ in found.values()}
    ids = {row: passage.id for row, passage in enumerate(read()) if row in wanted}
    return tuple(
        Duplicate(row, ids[row], ids[of], like) for row, (of, like) in sorted(found.items())
    )


def _rows_of(pair: Any) -> tuple[int, int]:
    return int(pair) >> _HALF, int(pair) & 0xFFFFFFFF


def _words(passage: Passage) -> list[str]:
    return words(f"{passage.title} {passage.text}".casefold())


def _shingles(tokens: list[str]) -> set[str]:
    if len(tokens) <= _WORDS:
        return {" ".join(tokens)}
    return {" ".join(tokens[i : i + _WORDS]) for i in range(len(tokens) - _WORDS + 1)}


def _hashed(tokens: list[str]) -> Any:
    """uint64 [n]: the shingles as numbers, sorted: a twentieth of what the words would take."""
    import numpy as np

    return np.unique(np.array([id_number(one) for one in _shingles(tokens)], dtype=np.uint64))


def _overlap(first: Any, second: Any) -> float:
    import numpy as np

    same = len(np.intersect1d(first, second, assume_unique=True))
    return same / (len(first) + len(second) - same)
