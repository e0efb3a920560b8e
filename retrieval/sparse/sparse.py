"""Search by a sparse encoder's weights, over an artifact beside the index that it belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from neurorit.core.artifact import read_manifest
from neurorit.core.errors import ArtifactError, BadInput
from neurorit.retrieval.bm25.bm25 import best_rows
from neurorit.retrieval.encoders.sparse import SparseEncoder
from neurorit.retrieval.index.mapped_files import MappedFiles, is_small
from neurorit.retrieval.sparse.build import KIND, ROWS, STARTS, WEIGHTS, sparse_place


class SparseIndex:
    """The sparse vectors of an index's passages. Make one with `SparseIndex.load`.

    starts [V + 1], rows and weights: the entries of word w are those from starts[w] on.
    """

    def __init__(
        self,
        encoder: SparseEncoder,
        starts: Any,
        rows: Any,
        weights: Any,
        size: int,
        mapped: Iterable[Path] = (),
    ) -> None:
        self._files = MappedFiles(mapped)
        self._encoder = encoder
        self._starts, self._rows, self._weights = starts, rows, weights
        self._size = size

    @classmethod
    def load(cls, index: Path, digest: str, *, in_memory: bool = False) -> SparseIndex:
        """What `index --sparse` or `update --sparse` has made of the index.

        digest: of the manifest that the passages were loaded with; in_memory: read its files where
        they are large too. Raises BadInput where it is not there or of another state of the index,
        ArtifactError where it or its encoder has changed.
        """
        import numpy as np

        place = sparse_place(index)
        way = f"`neurorit-rag update {index} --sparse MODEL` makes it"
        if not place.is_dir():
            raise BadInput(f"‹mode=sparse›: {place} is not there; {way}")
        manifest = read_manifest(place, KIND, verify=False)
        if dict(manifest.inputs) != {"index": digest}:
            raise BadInput(f"‹mode=sparse›: {place} is of the index as it was before; {way}")
        encoder = SparseEncoder.load(str(manifest.settings["encoder"]))
        if encoder.fingerprint != manifest.made["fingerprint"]:
            raise ArtifactError(
                f"{place} was built with another encoder than {encoder.name!r} now is; {way} anew"
            )
        starts = np.load(place / STARTS)
        files = [place / name for name in (ROWS, WEIGHTS)]
        mapped = not (in_memory or is_small(files))
        rows, weights = (np.load(file, mmap_mode="r" if mapped else None) for file in files)
        size = int(manifest.made["passages"])
        return cls(encoder, starts, rows, weights, size, files if mapped else ())

    def search(
        self, queries: Sequence[str], k: int, only: Any = None
    ) -> list[list[tuple[int, float]]]:
        """For each query (row, inner product) of at most k passages that share a word, best first.

        only: int64 rows, to find no others.
        """
        import numpy as np

        self._files.check()
        asked = self._encoder.encode_queries(queries)
        found: list[list[tuple[int, float]]] = []
        for start, end in zip(asked.indptr[:-1], asked.indptr[1:], strict=True):
            scores = np.zeros(self._size, np.float32)
            for word, weight in zip(asked.indices[start:end], asked.data[start:end], strict=True):
                own = slice(self._starts[word], self._starts[word + 1])
                scores[self._rows[own]] += weight * self._weights[own]
            found.append(best_rows(scores, k, only))
        return found
