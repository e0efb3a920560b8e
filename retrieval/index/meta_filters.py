"""Which passages have a value in a field of their `meta`, found without reading the passages.

A field is a name, or a path with dots into nested ones; a list has each of its members as a value.
Values are spelt as in JSON: `true`, `null`, `2021`, and texts as they are. Beside a segment's
passages lies a sorted list of hashes of (field, value), each with its row.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from neurorit.core.errors import ArtifactError
from neurorit.core.hashing import id_number

FIELDS, FIELD_ROWS = "meta_fields.npy", "meta_rows.npy"
NOTHING = frozenset(["word null"])  # as `values_at` has a null
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


class Fields:
    """The hashes of (field, value) of one segment."""

    def __init__(self, hashes: Any, rows: Any) -> None:
        self._hashes = hashes
        self._rows = rows

    @classmethod
    def load(cls, place: Path, *, mapped: bool = True) -> Fields:
        """What `FieldsWriter.write` wrote, read or mapped; raises ArtifactError without it."""
        import numpy as np

        if not (place / FIELDS).is_file():
            raise ArtifactError(
                f"{place} was made by an older version, whose filters knew fewer kinds of values; "
                "build the index again with `neurorit-rag index`"
            )
        how: Literal["r"] | None = "r" if mapped else None
        try:
            return cls(*(np.load(place / name, mmap_mode=how) for name in (FIELDS, FIELD_ROWS)))
        except ValueError:  # nothing at all cannot be mapped
            return cls(*(np.load(place / name) for name in (FIELDS, FIELD_ROWS)))

    def rows(self, filters: Mapping[str, str]) -> Any:
        """int64 rows, ascending, that have the value in every field."""
        import numpy as np

        found: Any = None
        for name, value in filters.items():
            parts = [np.zeros(0, dtype=np.uint32)]
            for kind in _read_as(value):
                wanted = np.uint64(_pair(name, kind))
                low = int(self._hashes.searchsorted(wanted, side="left"))
                high = int(self._hashes.searchsorted(wanted, side="right"))
                parts.append(np.asarray(self._rows[low:high]))
            rows = np.unique(np.concatenate(parts))
            found = rows if found is None else np.intersect1d(found, rows, assume_unique=True)
        return np.sort(found).astype(np.int64)


class FieldsWriter:
    """Collects the fields of passages, in their order."""

    def __init__(self) -> None:
        self._hashes: list[Any] = []
        self._rows: list[Any] = []
        self._count = 0

    def add(self, records: Iterable[Mapping[str, Any]]) -> None:
        """The next passages, as they stand in `passages.jsonl`."""
        import numpy as np

        hashes: list[int] = []
        rows: list[int] = []
        for record in records:
            for name, kind in sorted(set(_fields(record.get("meta") or {}))):
                hashes.append(_pair(name, kind))
                rows.append(self._count)
            self._count += 1
        self._hashes.append(np.array(hashes, dtype=np.uint64))
        self._rows.append(np.array(rows, dtype=np.uint32))

    def sorted(self) -> tuple[Any, Any]:
        """(hashes, rows) by hash."""
        import numpy as np

        hashes = np.concatenate([np.zeros(0, np.uint64), *self._hashes])
        rows = np.concatenate([np.zeros(0, np.uint32), *self._rows])
        order = np.argsort(hashes, kind="stable")
        return hashes[order], rows[order]

    def write(self, place: Path) -> None:
        """Write both lists into a segment's folder."""
        import numpy as np

        for name, values in zip((FIELDS, FIELD_ROWS), self.sorted(), strict=True):
            np.save(place / name, values)


def values_at(meta: Mapping[str, Any], path: str) -> frozenset[str]:
    """What stands in a field, by name or path: several values of a list, none where there is none.

    Two are equal where a filter that asks for one finds the other.
    """
    return frozenset(kind for name, kind in _fields(meta) if name == path)


def spelt(value: Any) -> str:
    """A value of JSON as a filter has it: texts as they are, others in JSON's spelling."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _fields(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, kind and value) of all that is no list and no object."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _fields(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _fields(inner, path)
    elif isinstance(value, str):
        yield path, f"text {value}"
    elif value is None or isinstance(value, bool):
        yield path, f"word {spelt(value)}"
    else:
        yield path, f"number {_number(value)}"


def _read_as(value: str) -> list[str]:
    """What a filter's value may stand for: the text, and the number or word that it spells."""
    kinds = [f"text {value}"]
    if value in ("true", "false", "null"):
        kinds.append(f"word {value}")
    elif _NUMBER.fullmatch(value):
        kinds.append(f"number {_number(json.loads(value))}")
    return kinds


def _number(value: int | float) -> str:
    """4.0 and 4 are one number."""
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    return str(value)


def _pair(name: str, value: str) -> int:
    return id_number(f"{name}\0{value}")
