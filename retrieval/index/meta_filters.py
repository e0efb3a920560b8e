"""Which passages have a value in a field of their `meta`, found without reading the passages.

Beside a segment's passages lies a sorted list of hashes of (field, value), each with its row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from neurorit.core.hashing import id_number

FIELDS, FIELD_ROWS = "fields.npy", "field_rows.npy"


class Fields:
    """The hashes of (field, value) of one segment."""

    def __init__(self, hashes: Any, rows: Any) -> None:
        self._hashes = hashes
        self._rows = rows

    @classmethod
    def load(cls, place: Path) -> Fields:
        """What `FieldsWriter.write` wrote, mapped into memory."""
        import numpy as np

        try:
            return cls(*(np.load(place / name, mmap_mode="r") for name in (FIELDS, FIELD_ROWS)))
        except ValueError:  # nothing at all cannot be mapped
            return cls(*(np.load(place / name) for name in (FIELDS, FIELD_ROWS)))

    def rows(self, filters: Mapping[str, str]) -> Any:
        """int64 rows, ascending, that have the value in every field."""
        import numpy as np

        found: Any = None
        for name, value in filters.items():
            wanted = np.uint64(_pair(name, value))
            low = int(self._hashes.searchsorted(wanted, side="left"))
            high = int(self._hashes.searchsorted(wanted, side="right"))
            rows = np.asarray(self._rows[low:high])
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
            for name, value in (record.get("meta") or {}).items():
                hashes.append(_pair(name, str(value)))
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


def _pair(name: str, value: str) -> int:
    return id_number(f"{name}\0{value}")
