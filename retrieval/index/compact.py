"""Brings the segments of an index together again, without what was deleted.

Vectors are taken from the old segments where these hold them as they were made; compressed ones
(`ivf-pq`, `sq8`) are encoded anew. The new index takes the old one's place whole, and a compaction
that was killed goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from neurorit.core.artifact import manifest_digest
from neurorit.core.atomic_files import followed
from neurorit.core.build_dir import workplace
from neurorit.core.errors import BadInput
from neurorit.retrieval.index.build import REPEATS, Progress, held, publish
from neurorit.retrieval.index.faiss_kinds import check_kind
from neurorit.retrieval.index.index import DELETED, Index, read_index_manifest
from neurorit.retrieval.index.segments import (
    SEGMENTS,
    VECTORS,
    SegmentSettings,
    VectorSource,
    make_segments,
)
from neurorit.retrieval.index.update import settings_of
from neurorit.retrieval.index.vector_sources import EncodedVectors

_LOSSY = ("ivf-pq", "sq8")


def compact_index(
    directory: Path, *, batch_size: int = 64, progress: Progress | None = None
) -> dict[str, Any]:
    """Rewrite an index into as few segments as its memory allows; returns what it then holds.

    Raises BadInput where nothing would be left, or where vectors that were given were compressed.
    """
    directory = followed(Path(directory))
    with held(directory):
        manifest = read_index_manifest(directory)
        index = Index.load(directory, verify=False, batch_size=batch_size)
        settings = settings_of(manifest, batch_size)
        before = list(manifest.made["segments"])
        total = len(index)
        if not total:
            raise BadInput(f"{directory}: every passage is deleted, so nothing is left to compact")
        # So few may be left that their kind can no longer be trained; that says what to do.
        check_kind(settings.kind, total, index.encoder.dimension)
        lossy = settings.kind in _LOSSY
        if lossy and manifest.made.get("vectors") == "given":
            raise BadInput(
                f"{directory}: its vectors were given and then compressed as {settings.kind}; "
                "build it again with ‹vectors›"
            )
        source: VectorSource = (
            EncodedVectors(index.encoder)
            if lossy
            else StoredVectors(directory, before, index, int(manifest.made["dimension"]))
        )
        place = directory.with_name(f".{directory.name}.compacting")
        with workplace(place, {"the index": manifest_digest(manifest)}, restart=True):
            segments = make_segments(
                place,
                iter(index.passages),
                total,
                source,
                SegmentSettings(settings.kind, settings.segment(source.dimension), settings.target),
                progress=progress,
            )
            made = {key: value for key, value in manifest.made.items() if key != DELETED}
            made |= {"passages": total, "segments": [asdict(segment) for segment in segments]}
            if (directory / REPEATS).is_file():
                (place / REPEATS).write_bytes((directory / REPEATS).read_bytes())
            publish(place, replace(manifest, made=made, files={}), directory, overwrite=True)
    return {
        "passages": total,
        "segments": len(segments),
        "segments_before": len(before),
        "reclaimed": sum(record["passages"] for record in before) - total,
    }


class StoredVectors:
    """The vectors of an index's passages, as its segments hold them."""

    def __init__(
        self, directory: Path, records: list[Mapping[str, Any]], index: Index, dimension: int
    ) -> None:
        self.dimension = dimension
        self._paths = [directory / SEGMENTS / str(record["name"]) / VECTORS for record in records]
        self._index = index
        self._number = -1
        self._held: Any = None

    def vectors(self, start: int, texts: Iterator[list[str]]) -> Iterator[Any]:
        """float32 [n, d] for each list of n texts: those of the passages from `start` on."""
        import numpy as np

        for some in texts:
            found = np.empty((len(some), self.dimension), dtype=np.float32)
            places = [self._index.passages.place_of(start + i) for i in range(len(some))]
            for number in sorted({number for number, _ in places}):
                at = [i for i, (part, _) in enumerate(places) if part == number]
                rows = np.array([places[i][1] for i in at], dtype=np.int64)
                found[at] = self._segment(number).reconstruct_batch(rows)
            start += len(some)
            yield found

    def _segment(self, number: int) -> Any:
        import faiss as library

        faiss: Any = library
        if number != self._number:
            self._held = faiss.read_index(str(self._paths[number]), faiss.IO_FLAG_MMAP_IFC)
            self._number = number
            inner = faiss.downcast_index(self._held)
            if isinstance(inner, faiss.IndexIVF):
                inner.make_direct_map()
        return self._held
