"""Files that are mapped into memory, and what becomes of that when somebody cuts one short.

Reading a page that its file no longer has ends the process (SIGBUS), and no Python can catch it.
So small files are read instead, and sizes are looked at before a mapped one is used. What is cut
within the milliseconds between look and use still ends the process: only reading all keeps that
out.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterable
from pathlib import Path

from neurorit.core.errors import NeuroritError

SMALL = 64 * 2**20  # bytes of all files of a kind up to which they are read


def is_small(paths: Iterable[Path]) -> bool:
    """True where mapping these files would save too little memory for its danger."""
    return sum(path.stat().st_size for path in paths) <= SMALL


class MappedFiles:
    """The sizes of files when they were mapped; what takes their name later is no matter."""

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        self._maps: dict[Path, mmap.mmap] = {}
        for path in paths:
            # An empty file cannot be mapped, nor cut.
            with open(path, "rb") as stream, contextlib.suppress(ValueError):
                self._maps[path] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)

    def check(self) -> None:
        """Raise NeuroritError where one is shorter by now."""
        for path, mapped in self._maps.items():
            if mapped.size() < len(mapped):
                raise NeuroritError(
                    f"{path} was cut short while it was in use; build the index again with "
                    "`neurorit-rag index`, and load it again"
                )
