"""Passages of an index on disk: found by row or by id, parsed when they are asked for.

A part is one segment's `passages.jsonl` with the place of every line (`offsets.npy`), a hash of
every id (`ids.npy`) and of every field (`index.meta_filters`). Deleted passages are skipped: rows
here count those that are left.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

from neurorit.core.errors import ArtifactError
from neurorit.core.hashing import id_number
from neurorit.data.examples import Passage
from neurorit.retrieval.corpus.records import parse_passage
from neurorit.retrieval.index.mapped_files import MappedFiles, is_small
from neurorit.retrieval.index.meta_filters import FIELD_ROWS, FIELDS, Fields, FieldsWriter

PASSAGES, OFFSETS, IDS = "passages.jsonl", "offsets.npy", "ids.npy"


class PassageParts(Sequence[Passage]):
    """The passages of several parts [S] as one sequence.

    counts: how many each part holds; gone: part -> int64 rows that were deleted, ascending;
    in_memory: nothing is mapped, of however much text. Raises ArtifactError for a part that holds
    another number of them.
    """

    def __init__(
        self,
        parts: Sequence[Path],
        counts: Sequence[int],
        gone: Mapping[int, Any] | None = None,
        *,
        in_memory: bool = False,
    ) -> None:
        import numpy as np

        small = is_small(place / PASSAGES for place in parts)
        self._parts = [_Part(place, mapped=not (small or in_memory)) for place in parts]
        for place, part, count in zip(parts, self._parts, counts, strict=True):
            if len(part) != count:
                raise ArtifactError(
                    f"{place} holds {len(part)} passages and not {count}; build the index again "
                    "with `neurorit-rag index`"
                )
        self._left: dict[int, Any] = {}
        for number, rows in (gone or {}).items():
            left = np.ones(len(self._parts[number]), dtype=bool)
            left[rows] = False
            self._left[number] = np.flatnonzero(left)
        sizes = [len(self._left.get(i, part)) for i, part in enumerate(self._parts)]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._held: list[Passage] | None = None
        if small:
            self._held = list(self._read())

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __iter__(self) -> Iterator[Passage]:
        return iter(self._held) if self._held is not None else self._read()

    @overload
    def __getitem__(self, row: int) -> Passage: ...
    @overload
    def __getitem__(self, row: slice) -> list[Passage]: ...
    def __getitem__(self, row: int | slice) -> Passage | list[Passage]:
        if self._held is not None:
            return self._held[row]
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        number, inside = self.place_of(row % len(self))
        return self._parts[number][inside]

    def place_of(self, row: int) -> tuple[int, int]:
        """(part, its own row) of a row here."""
        number = int(self._starts.searchsorted(row, side="right")) - 1
        inside = row - int(self._starts[number])
        left = self._left.get(number)
        return number, inside if left is None else int(left[inside])

    def row_of(self, number: int, inside: int) -> int:
        """The row here of a part's own row; it must not be deleted."""
        left = self._left.get(number)
        if left is not None:
            inside = int(left.searchsorted(inside))
        return int(self._starts[number]) + inside

    def find(self, identity: str) -> tuple[int, int] | None:
        """(part, its own row) of the passage of that id, None if there is none or it is deleted."""
        for number, part in enumerate(self._parts):
            left = self._left.get(number)
            for row in part.rows_of(identity):
                place = None if left is None else int(left.searchsorted(row))
                if left is None or place is None or (place < len(left) and left[place] == row):
                    return number, row
        return None

    def matching(self, filters: Mapping[str, str]) -> dict[int, Any]:
        """Part -> its own int64 rows, ascending, whose `meta` has these values."""
        import numpy as np

        found = {}
        for number, part in enumerate(self._parts):
            rows, left = part.fields.rows(filters), self._left.get(number)
            if left is not None:
                rows = np.intersect1d(rows, left, assume_unique=True)
            if len(rows):
                found[number] = rows
        return found

    def rows_of(self, selection: Mapping[int, Any]) -> Any:
        """int64 rows here of what `matching` found."""
        import numpy as np

        found = [np.zeros(0, dtype=np.int64)]
        for number, rows in selection.items():
            left = self._left.get(number)
            inside = rows if left is None else left.searchsorted(rows)
            found.append(inside + self._starts[number])
        return np.concatenate(found)

    def _read(self) -> Iterator[Passage]:
        for number, part in enumerate(self._parts):
            rows = self._left.get(number)
            for row in range(len(part)) if rows is None else rows.tolist():
                yield part[row]


class _Part:
    """One `passages.jsonl`.

    All its files are opened at once: a directory that is replaced later changes nothing here.
    """

    def __init__(self, place: Path, *, mapped: bool) -> None:
        import numpy as np

        used = [place / name for name in (PASSAGES, OFFSETS, IDS, FIELDS, FIELD_ROWS)]
        self._files = MappedFiles(used if mapped else ())
        how: Literal["r"] | None = "r" if mapped else None
        self._offsets = np.load(place / OFFSETS, mmap_mode=how)
        self._hashes = np.load(place / IDS, mmap_mode=how)
        self._fields = Fields.load(place, mapped=mapped)
        with open(place / PASSAGES, "rb") as stream:
            self._text: bytes | mmap.mmap = (
                mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if mapped else stream.read()
            )

    @property
    def fields(self) -> Fields:
        """Which rows have which values in their `meta`."""
        self._files.check()
        return self._fields

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, row: int) -> Passage:
        self._files.check()
        line = self._text[int(self._offsets[row]) : int(self._offsets[row + 1])]
        return parse_passage(json.loads(line))

    def rows_of(self, identity: str) -> list[int]:
        """Rows with that id (one, or none)."""
        import numpy as np

        self._files.check()
        hashes, order = self._sorted
        wanted = np.uint64(id_number(identity))
        at = int(hashes.searchsorted(wanted))
        found = []
        while at < len(hashes) and hashes[at] == wanted:
            # Two ids may share a hash: the passage itself decides.
            if self[int(order[at])].id == identity:
                found.append(int(order[at]))
            at += 1
        return found

    @cached_property
    def _sorted(self) -> tuple[Any, Any]:
        import numpy as np

        order = np.argsort(self._hashes, kind="stable")
        return np.asarray(self._hashes)[order], order


def passage_line(passage: Passage) -> bytes:
    """A passage as it stands in `passages.jsonl`."""
    record: dict[str, Any] = {"id": passage.id, "title": passage.title, "text": passage.text}
    if passage.meta:
        record["meta"] = dict(passage.meta)
    return (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")


def write_places(place: Path) -> int:
    """Write what finds passages of a part's `passages.jsonl`: by row, by id and by field.

    Returns how many there are.
    """
    import numpy as np

    offsets, hashes, fields = [np.zeros(1, np.uint64)], [], FieldsWriter()
    where = 0
    for lines in _blocks(place):
        ends = np.cumsum([len(line) for line in lines], dtype=np.uint64) + np.uint64(where)
        where = int(ends[-1])
        offsets.append(ends)
        records = [json.loads(line) for line in lines]
        hashes.append(np.array([id_number(one["id"]) for one in records], dtype=np.uint64))
        fields.add(records)
    np.save(place / OFFSETS, np.concatenate(offsets))
    np.save(place / IDS, np.concatenate(hashes))
    fields.write(place)
    return sum(map(len, hashes))


def _blocks(place: Path) -> Iterator[list[bytes]]:
    """The lines of a part, some at once."""
    with open(place / PASSAGES, "rb") as stream:
        while lines := stream.readlines(8 * 2**20):
            yield lines
