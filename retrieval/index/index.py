"""The index: passages and their vectors in segments, searched as one, as one checked artifact.

A segment's `passages.jsonl` and `vectors.faiss` share an order: row i is line i. Unless they are
small both are mapped into memory, so that an index may be larger than it. The manifest records
which encoder made the vectors; loading refuses any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, overload

from neurorit.core.artifact import MANIFEST, Manifest, manifest_digest, read_manifest
from neurorit.core.errors import ArtifactError, BadInput
from neurorit.data.examples import Passage
from neurorit.retrieval.corpus.reader import GivenCorpus, rereadable
from neurorit.retrieval.encoders.base import Encoder
from neurorit.retrieval.encoders.endpoint import at_named_address
from neurorit.retrieval.encoders.load import DEFAULT, load_encoder
from neurorit.retrieval.index.build import Progress, write_index
from neurorit.retrieval.index.faiss_search import find
from neurorit.retrieval.index.mapped_files import MappedFiles, is_small
from neurorit.retrieval.index.passage_store import PassageParts
from neurorit.retrieval.index.segments import SEGMENTS, VECTORS, passage_text
from neurorit.retrieval.settings import BuildSettings

__all__ = ["Hit", "Index", "build_index", "passage_text"]

DELETED = "deleted"
_Read = TypeVar("_Read")
_LOADS = 5
_CHECKED = 4 * 2**30  # bytes of files up to which every load hashes them all


@dataclass(frozen=True)
class Hit:
    """A passage that a search found: score is the cosine similarity, rank starts at 1.

    ranks: where each part of a combined search had it (see `neurorit.retrieval.retriever`).
    """

    passage: Passage
    score: float
    rank: int
    ranks: Mapping[str, int] = field(default_factory=dict)


def build_index(
    corpus: GivenCorpus,
    out: str | PathLike[str],
    *,
    encoder: str | Encoder = DEFAULT,
    settings: BuildSettings | None = None,
    overwrite: bool = False,
    restart: bool = False,
    progress: Progress | None = None,
) -> Index:
    """Encode a corpus into an index artifact at `out`, and open it; `built` says what is in it.

    corpus: a file or folder (see `neurorit.retrieval.corpus.reader`), or passages in memory. For
    the rest, and for what it raises, see `neurorit.retrieval.index.build.write_index`.
    """
    built, loaded = write_index(
        rereadable(corpus),
        Path(out),
        encoder=encoder,
        settings=settings,
        overwrite=overwrite,
        restart=restart,
        progress=progress,
    )
    index = Index.load(Path(out), encoder=loaded, verify=False)
    index.built = built
    return index


class Index:
    """A loaded index. Make one with `build_index` or `Index.load`.

    directory: where it was loaded from; built: the counts of the build that made it here, empty for
    one that was loaded.
    """

    built: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self,
        passages: PassageParts,
        segments: Sequence[_Segment],
        encoder: Encoder,
        *,
        effort: int | None = None,
        digest: str = "",
        directory: Path | None = None,
        in_memory: bool = False,
    ) -> None:
        self.directory = directory
        self.in_memory = in_memory
        self.passages = passages
        self.encoder = encoder
        self.effort = effort
        self.digest = digest  # of the manifest that was loaded, whatever now lies on disk
        self._segments = segments

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        encoder: Encoder | None = None,
        effort: int | None = None,
        segments: Sequence[str] | None = None,
        verify: bool | None = None,
        batch_size: int = 64,
        in_memory: bool = False,
    ) -> Index:
        """Read and check an index artifact.

        encoder: one that is loaded already; None loads the one that the manifest names. effort:
        efSearch of a graph, nprobe of an inverted file (None: as the index was tuned). segments:
        only these. verify: hash every file; None does so up to 4 GiB, beyond which FAISS checks the
        sizes of its own. batch_size: of the encoder. in_memory: read large files too, which are
        mapped otherwise: then nobody can cut them short meanwhile. Raises ArtifactError if a file
        or a segment is missing or changed, or if the encoder is another one.
        """
        place = Path(directory)
        return beside_updates(
            place,
            lambda: cls._load(place, encoder, effort, segments, verify, batch_size, in_memory),
        )

    @classmethod
    def _load(
        cls,
        directory: Path,
        encoder: Encoder | None,
        effort: int | None,
        segments: Sequence[str] | None,
        verify: bool | None,
        batch_size: int,
        in_memory: bool,
    ) -> Index:
        manifest = read_index_manifest(directory, verify=verify)
        model = encoder or load_encoder(
            at_named_address(str(manifest.settings["encoder"]), directory), batch_size=batch_size
        )
        if model.fingerprint != manifest.made["fingerprint"]:
            raise ArtifactError(
                f"{directory} was built with another encoder than {model.name!r} now is; "
                "build it again with `neurorit-rag index`"
            )
        known = {str(record["name"]): record for record in manifest.made["segments"]}
        if missing := [name for name in segments or () if name not in known]:
            raise ArtifactError(f"{directory} has no segment {missing[0]}: it was made anew since")
        records = [known[name] for name in known if segments is None or name in segments]
        gone = read_deleted(directory, manifest)
        places = [directory / SEGMENTS / record["name"] for record in records]
        passages = load_passages(directory, records, gone, in_memory=in_memory)
        mapped = not (in_memory or is_small(place / VECTORS for place in places))
        loaded = [
            _Segment(place, record, gone.get(record["name"]), mapped=mapped)
            for place, record in zip(places, records, strict=True)
        ]
        return cls(
            passages,
            loaded,
            model,
            effort=effort,
            digest=manifest_digest(manifest),
            directory=directory,
            in_memory=in_memory,
        )

    def __len__(self) -> int:
        return len(self.passages)

    def __repr__(self) -> str:
        return f"Index({len(self)} passages in {str(self.directory)!r} by {self.encoder.name})"

    def passage(self, passage_id: str) -> Passage:
        """The passage of that id; raises BadInput if there is none."""
        found = self.passages.find(passage_id)
        if found is None:
            raise BadInput(f"the index has no passage {passage_id!r}")
        return self.passages[self.passages.row_of(*found)]

    def __contains__(self, passage_id: object) -> bool:
        return isinstance(passage_id, str) and self.passages.find(passage_id) is not None

    @overload  # a text is a sequence of texts too
    def search(self, queries: str, k: int) -> list[Hit]: ...  # type: ignore[overload-overlap]
    @overload
    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]: ...
    def search(self, queries: str | Sequence[str], k: int) -> list[Hit] | list[list[Hit]]:
        """The k nearest passages of a query, best first (fewer if the index holds fewer).

        Of several queries, a list for each.
        """
        if k < 1:
            raise BadInput(f"k must be at least 1, not {k}")
        if isinstance(queries, str):
            return self.search([queries], k)[0]
        if not queries:
            return []
        return self.search_vectors(self.encoder.encode_queries(queries), k)

    def search_vectors(
        self, vectors: Any, k: int, only: Mapping[int, Any] | None = None
    ) -> list[list[Hit]]:
        """The same for queries that are encoded already: float32 [n, d].

        only: what `passages.matching` found, to find nothing else.
        """
        import numpy as np

        width = len(vectors)
        scores = [np.zeros((width, 0), np.float32)]
        rows = [np.zeros((width, 0), np.int64)]
        for number, segment in enumerate(self._segments):
            if only is not None and number not in only:
                continue
            chosen = None if only is None else only[number]
            near, inside = segment.search(vectors, k, self.effort, chosen)
            scores.append(near)
            rows.append(np.where(inside < 0, -1, inside + (number << 40)))
        near, where = np.concatenate(scores, axis=1), np.concatenate(rows, axis=1)
        # A tie goes to the earlier passage, so that a search gives the same twice.
        order = np.argsort(np.where(where < 0, np.inf, -near), axis=1, kind="stable")
        return [
            [
                Hit(self._at(int(row[i])), float(score[i]), rank)
                for rank, i in enumerate(best[:k], start=1)
                if row[i] >= 0
            ]
            for best, row, score in zip(order, where, near, strict=True)
        ]

    def _at(self, place: int) -> Passage:
        return self.passages[self.passages.row_of(place >> 40, place & ((1 << 40) - 1))]


class _Segment:
    """The vectors of one segment."""

    def __init__(
        self, place: Path, record: Mapping[str, Any], gone: Any, *, mapped: bool = True
    ) -> None:
        import faiss

        self._files = MappedFiles([place / VECTORS] if mapped else ())
        # Of what is mapped pages come as searches need them, and go when memory is short.
        flags = faiss.IO_FLAG_MMAP_IFC if mapped else 0
        try:
            self._vectors = faiss.read_index(str(place / VECTORS), flags)
        except RuntimeError as error:
            raise ArtifactError(
                f"{place / VECTORS} cannot be read; build the index again with `neurorit-rag index`"
            ) from error
        if self._vectors.ntotal != record["passages"]:
            raise ArtifactError(
                f"{place} holds {record['passages']} passages but {self._vectors.ntotal} vectors; "
                "build the index again with `neurorit-rag index`"
            )
        self._effort = record["effort"]
        self._gone = gone
        self._left = record["passages"] - (0 if gone is None else len(gone))

    def search(self, queries: Any, k: int, effort: int | None, only: Any) -> Any:
        """(scores, rows) [n, at most k]."""
        self._files.check()
        most = max(1, min(k, self._left if only is None else len(only)))
        return find(self._vectors, queries, most, effort or self._effort, self._gone, only)


def beside_updates(directory: Path, read: Callable[[], _Read]) -> _Read:
    """What `read` finds in an index; it is called again where an update has come between.

    An update replaces the manifest, and takes away what the former one names: what was read by both
    fails in any way, or not at all. Raises ArtifactError where one came between every time.
    """
    for _ in range(_LOADS):
        before = _manifest_bytes(directory)
        try:
            found = read()
        except Exception:
            if _manifest_bytes(directory) == before:
                raise
        else:
            if _manifest_bytes(directory) == before:
                return found
    raise ArtifactError(
        f"{directory} was changed each of the {_LOADS} times it was read; read it again later"
    )


def _manifest_bytes(directory: Path) -> bytes:
    try:
        return (directory / MANIFEST).read_bytes()
    except OSError:
        return b""


def read_index_manifest(directory: Path, *, verify: bool | None = None) -> Manifest:
    """The manifest of an index, checked; raises ArtifactError as `read_manifest` does."""
    manifest = read_manifest(directory, "index", verify=False)
    if verify is None:
        verify = sum((directory / name).stat().st_size for name in manifest.files) <= _CHECKED
    return read_manifest(directory, "index") if verify else manifest


def load_passages(
    directory: Path,
    records: Sequence[Mapping[str, Any]],
    gone: Mapping[str, Any],
    *,
    in_memory: bool = False,
) -> PassageParts:
    """The passages of these segments; gone: what `read_deleted` says. Raises ArtifactError."""
    names = [str(record["name"]) for record in records]
    return PassageParts(
        [directory / SEGMENTS / name for name in names],
        [int(record["passages"]) for record in records],
        {number: gone[name] for number, name in enumerate(names) if name in gone},
        in_memory=in_memory,
    )


def read_deleted(directory: Path, manifest: Manifest) -> dict[str, Any]:
    """Segment's name -> int64 rows that were deleted, ascending."""
    import numpy as np

    name = manifest.made.get(DELETED)
    if not name:
        return {}
    with np.load(directory / str(name)) as stored:
        return {segment: stored[segment] for segment in stored.files}
