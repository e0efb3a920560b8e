"""Vectors that are given: a .npy file with one row for each passage, read from front to back.

It is not mapped into memory, so that it takes none. It knows nothing of passages or indexes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from retrieval.artifact import hash_file
from retrieval.errors import BadInput


class GivenVectors:
    """Rows of `path`, scaled to length 1 as they are taken.

    Raises BadInput unless the file holds float32 or float16 [passages, dimension].
    """

    def __init__(self, path: Path, passages: int, dimension: int) -> None:
        import numpy as np

        self._path = Path(path)
        self._dimension = dimension
        try:
            with open(self._path, "rb") as stream:
                form: Any = np.lib.format
                first = form.read_magic(stream) == (1, 0)
                read = form.read_array_header_1_0 if first else form.read_array_header_2_0
                shape, fortran, self._type = read(stream)
                self._begin = stream.tell()
        except (OSError, ValueError) as error:
            raise BadInput(f"--vectors {path}: not a .npy file: {error}") from error
        if fortran or self._type not in (np.float32, np.float16):
            raise BadInput(f"--vectors {path}: rows of float32 or float16 are needed")
        if shape != (passages, dimension):
            raise BadInput(
                f"--vectors {path}: holds {' x '.join(map(str, shape))}, but the corpus has "
                f"{passages} passages and the encoder {dimension} dimensions"
            )
        self._next = 0

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return hash_file(self._path)

    def seek(self, row: int) -> None:
        """Take from this row on."""
        self._next = row

    def take(self, texts: Sequence[str]) -> Any:
        """float32 [n, d]: the next rows, one for each text."""
        import numpy as np

        width = self._dimension * self._type.itemsize
        with open(self._path, "rb") as stream:
            stream.seek(self._begin + self._next * width)
            rows = np.fromfile(stream, self._type, len(texts) * self._dimension)
        if len(rows) < len(texts) * self._dimension:
            raise BadInput(f"--vectors {self._path}: ends before row {self._next + len(texts)}")
        made = rows.reshape(len(texts), self._dimension).astype(np.float32)
        lengths = np.linalg.norm(made, axis=1, keepdims=True)
        if not np.isfinite(lengths).all() or not lengths.all():
            bad = int(np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))[0])
            raise BadInput(f"--vectors {self._path}: row {self._next + bad} has no direction")
        self._next += len(texts)
        return made / lengths
