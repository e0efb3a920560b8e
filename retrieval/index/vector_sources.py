"""Where the vectors of passages come from: an encoder, or a .npy file with a row for each passage.

The file is read from front to back and not mapped into memory, so that it takes none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from neurorit.core.artifact import hash_file
from neurorit.core.errors import BadInput
from neurorit.retrieval.encoders.base import Encoder

_ALIKE = 0.6  # mean cosine below which given vectors are another encoder's, or of other passages


class EncodedVectors:
    """Vectors that an encoder makes now; one with an `encode_stream` may have several under way."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.dimension = encoder.dimension

    def vectors(self, start: int, texts: Iterator[list[str]]) -> Iterator[Any]:
        """float32 [n, d] for each list of n texts."""
        stream = getattr(self._encoder, "encode_stream", None)
        if stream is not None:
            yield from stream(texts)
            return
        for some in texts:
            yield self._encoder.encode_passages(some)


class GivenVectors:
    """Rows of `path`, scaled to length 1 as they are taken.

    Raises BadInput unless the file holds float32 or float16 [passages, dimension].
    """

    def __init__(self, path: Path, passages: int, dimension: int) -> None:
        import numpy as np

        self._path = Path(path)
        self.dimension = dimension
        try:
            with open(self._path, "rb") as stream:
                form: Any = np.lib.format
                first = form.read_magic(stream) == (1, 0)
                read = form.read_array_header_1_0 if first else form.read_array_header_2_0
                shape, fortran, self._type = read(stream)
                self._begin = stream.tell()
        except (OSError, ValueError) as error:
            raise BadInput(f"‹vectors={path}›: not a .npy file: {error}") from error
        if fortran or self._type not in (np.float32, np.float16):
            raise BadInput(f"‹vectors={path}›: rows of float32 or float16 are needed")
        if shape != (passages, dimension):
            raise BadInput(
                f"‹vectors={path}›: holds {' x '.join(map(str, shape))}, but the corpus has "
                f"{passages} passages and the encoder {dimension} dimensions"
            )
        self._next = 0

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return hash_file(self._path)

    def vectors(self, start: int, texts: Iterator[list[str]]) -> Iterator[Any]:
        """float32 [n, d] for each list of n texts: the rows from `start` on."""
        self._next = start
        for some in texts:
            yield self.take(some)

    def likeness(self, encoder: Encoder, texts: Sequence[str]) -> float:
        """Mean cosine of the first rows to what the encoder makes of the first passages."""
        self._next = 0
        given = self.take(texts)
        return float((given * encoder.encode_passages(texts)).sum(axis=1).mean())

    def check(self, encoder: Encoder, texts: Sequence[str]) -> float:
        """The likeness; raises BadInput where it is too low to be the encoder's own."""
        found = self.likeness(encoder, texts)
        if found < _ALIKE:
            raise BadInput(
                f"‹vectors={self._path}›: the first {len(texts)} rows have a mean cosine of "
                f"{found:.2f} to what {encoder.name} makes of the same passages, so they are "
                "another encoder's, or in another order; name theirs with ‹encoder›, or pass "
                "‹trust_vectors=True›"
            )
        return found

    def take(self, texts: Sequence[str]) -> Any:
        """float32 [n, d]: the next rows, one for each text."""
        import numpy as np

        width = self.dimension * self._type.itemsize
        with open(self._path, "rb") as stream:
            stream.seek(self._begin + self._next * width)
            rows = np.fromfile(stream, self._type, len(texts) * self.dimension)
        if len(rows) < len(texts) * self.dimension:
            raise BadInput(f"‹vectors={self._path}›: ends before row {self._next + len(texts)}")
        made = rows.reshape(len(texts), self.dimension).astype(np.float32)
        lengths = np.linalg.norm(made, axis=1, keepdims=True)
        if not np.isfinite(lengths).all() or not lengths.all():
            bad = int(np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))[0])
            raise BadInput(f"‹vectors={self._path}›: row {self._next + bad} has no direction")
        self._next += len(texts)
        return made / lengths
