"""One retriever for every way to search: dense, BM25, both fused, sparse, reranked, filtered.

Fusion is by scores (a convex combination, as in Bruch et al. 2023: cosine, and BM25's share of the
query's best), or by reciprocal ranks (Cormack et al. 2009).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import fields, replace
from os import PathLike
from pathlib import Path
from typing import Any, overload

from neurorit.core.errors import BadInput
from neurorit.data.examples import Passage
from neurorit.retrieval.bm25.bm25 import LexicalIndex
from neurorit.retrieval.index.index import Hit, Index, passage_text
from neurorit.retrieval.index.passage_store import PassageParts
from neurorit.retrieval.settings import FUSIONS, MODES, Mode, SearchSettings
from neurorit.retrieval.sparse.sparse import SparseIndex

__all__ = ["FUSIONS", "MODES", "Retriever", "SearchSettings"]


class Retriever:
    """Searches an index; has its `search`, `passage` and length."""

    def __init__(self, index: Index, settings: SearchSettings, directory: Path) -> None:
        self.index = index
        self.settings = settings
        self.directory = directory
        self._lexical: LexicalIndex | SparseIndex | None = None
        if settings.mode == "sparse":
            self._lexical = SparseIndex.load(directory, index.digest, in_memory=index.in_memory)
        elif settings.mode != "dense":
            self._lexical = LexicalIndex.of(
                directory, index.passages, index.digest, in_memory=index.in_memory
            )
        self._only = _matching(index.passages, settings.filters) if settings.filters else None
        self._cross = load_cross_encoder(settings.rerank) if settings.rerank else None

    @classmethod
    def load(
        cls,
        index: Index | str | PathLike[str],
        settings: SearchSettings | None = None,
        **options: Any,
    ) -> Retriever:
        """Load an index (or take one that is loaded) and what the mode needs beside it.

        options: settings by name, over `settings`, such as mode="hybrid".
        """
        try:
            settings = replace(settings or SearchSettings(), **options)
        except TypeError as error:
            known = ", ".join(field.name for field in fields(SearchSettings))
            raise BadInput(f"search: {sorted(options)}: the settings are {known}") from error
        if not isinstance(index, Index):
            index = Index.load(Path(index), effort=settings.effort or None)
        elif settings.effort and settings.effort != index.effort:
            index = copy(index)  # its parts are shared
            index.effort = settings.effort
        if index.directory is None:
            raise BadInput("search: this index lies nowhere; load it from its directory")
        return cls(index, settings, index.directory)

    @classmethod
    def on_cluster(cls, ray: Any, directory: Path, settings: SearchSettings) -> Retriever:
        """The segments of an index in actors of a Ray cluster, for one larger than a machine.

        Raises BadInput for what needs all passages in one place: BM25 and filters.
        """
        from neurorit.retrieval.encoders.endpoint import at_named_address
        from neurorit.retrieval.encoders.load import load_encoder
        from neurorit.retrieval.index.index import read_index_manifest
        from neurorit.retrieval.ray_cluster import ClusterIndex

        if settings.mode != "dense" or settings.filters:
            raise BadInput("‹ray›: a cluster searches dense and without filters")
        manifest = read_index_manifest(directory, verify=False)
        encoder = load_encoder(at_named_address(str(manifest.settings["encoder"]), directory))
        index: Any = ClusterIndex(ray, [Path(directory)], encoder, effort=settings.effort or None)
        return cls(index, settings, Path(directory))

    def variant(
        self, mode: Mode | None = None, filters: Mapping[str, str] | None = None
    ) -> Retriever:
        """The same index searched in another way; all that is loaded is shared.

        mode: None for this one's. filters: beside this one's own, which stay. Raises BadInput for
        a mode that this retriever has not loaded, and for filters that no passage passes.
        """
        made = copy(self)
        own = self.settings
        made.settings = replace(
            own, mode=mode or own.mode, filters={**(filters or {}), **own.filters}
        )
        loaded = ("dense", "sparse") if own.mode == "sparse" else ("dense", "bm25", "hybrid")
        if made.settings.mode != "dense" and (
            self._lexical is None or made.settings.mode not in loaded
        ):
            way = "sparse" if made.settings.mode == "sparse" else "hybrid"
            raise BadInput(
                f"search: {mode} is not loaded here; load the index as {way} (`--retriever {way}`)"
            )
        if filters and not hasattr(self.index, "passages"):
            raise BadInput("search: filters are not loaded here")
        if filters:
            made._only = _matching(self.index.passages, made.settings.filters)
        return made

    @property
    def passages(self) -> Sequence[Passage]:
        """All that a search may find: the index's, or those of them that the filters allow."""
        if self._only is None:
            return self.index.passages
        return Chosen(self.index.passages, self.index.passages.rows_of(self._only))

    def __len__(self) -> int:
        return len(self.index)

    def passage(self, passage_id: str) -> Passage:
        """The passage of that id; raises BadInput if there is none."""
        return self.index.passage(passage_id)

    @overload  # a text is a sequence of texts too
    def search(self, queries: str, k: int = 5) -> list[Hit]: ...  # type: ignore[overload-overlap]
    @overload
    def search(self, queries: Sequence[str], k: int = 5) -> list[list[Hit]]: ...
    def search(self, queries: str | Sequence[str], k: int = 5) -> list[Hit] | list[list[Hit]]:
        """At most k passages for a query, best first; a hit's `ranks` say which part found it.

        Of several queries, a list for each. The score is the cosine of dense search, BM25's, the
        fused one, a sparse encoder's inner product or the cross-encoder's.
        """
        if k < 1:
            raise BadInput(f"k must be at least 1, not {k}")
        if isinstance(queries, str):
            return self.search([queries], k)[0]
        if not queries:
            return []
        mode, deep = self.settings.mode, max(k, self.settings.depth)
        first = deep if self._cross is not None or mode == "hybrid" else k
        parts = []
        if mode in ("dense", "hybrid"):
            parts.append(("dense", self.settings.dense_weight, self._dense(queries, first)))
        if mode != "dense" and self._lexical is not None:
            chosen = None if self._only is None else self.index.passages.rows_of(self._only)
            rows = self._lexical.search(queries, first, chosen)
            hits = [
                [Hit(self.index.passages[row], s, i) for i, (row, s) in enumerate(found, start=1)]
                for found in rows
            ]
            name = "sparse" if mode == "sparse" else "bm25"
            parts.append((name, 1.0 - self.settings.dense_weight, hits))
        if len(parts) == 1:
            name, _, found = parts[0]
            merged = [[_ranked(hit, hit.score, {name: hit.rank}) for hit in hits] for hits in found]
        else:
            merged = [
                self._fused([(name, weight, found[i]) for name, weight, found in parts], deep)
                for i in range(len(queries))
            ]
        if self._cross is not None:
            merged = [
                self._reranked(query, hits[:deep])
                for query, hits in zip(queries, merged, strict=True)
            ]
        return [
            [_ranked(hit, hit.score, hit.ranks, rank) for rank, hit in enumerate(hits[:k], start=1)]
            for hits in merged
        ]

    def _dense(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Dense hits among the passages that the filters allow."""
        if self._only is None:
            return self.index.search(queries, k)
        vectors = self.index.encoder.encode_queries(queries)
        return self.index.search_vectors(vectors, k, self._only)

    def _fused(self, parts: Sequence[tuple[str, float, Sequence[Hit]]], deep: int) -> list[Hit]:
        """One list of those of parts, each of `deep` hits at most."""
        scores: dict[str, float] = {}
        ranks: dict[str, dict[str, int]] = {}
        hits: dict[str, Hit] = {}
        for name, weight, found in parts:
            for hit, gain in zip(found, self._gains(name, found, deep), strict=True):
                key = hit.passage.id
                scores[key] = scores.get(key, 0.0) + weight * gain
                ranks.setdefault(key, {})[name] = hit.rank
                hits.setdefault(key, hit)
        # A tie goes to what one part ranked best, then to the id: a search gives the same twice.
        order = sorted(scores, key=lambda key: (-scores[key], min(ranks[key].values()), key))
        return [_ranked(hits[key], scores[key], ranks[key]) for key in order]

    def _gains(self, part: str, found: Sequence[Hit], deep: int) -> list[float]:
        """What a part gives to each of its hits; to a passage that it did not find it gives 0."""
        if self.settings.fusion == "ranks":
            return [1.0 / (self.settings.rrf + hit.rank) for hit in found]
        # BM25 has no scale of its own: a query's best passage counts 1.
        unit = max((hit.score for hit in found), default=1.0) if part == "bm25" else 1.0
        values = [hit.score / unit if unit > 0 else 0.0 for hit in found]
        # Where a list was cut off, what is not on it is no better than its last one.
        least = min(values) if len(found) >= deep else 0.0
        return [value - least for value in values]

    def _reranked(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        if not hits or self._cross is None:
            return list(hits)
        pairs = [(query, passage_text(hit.passage)) for hit in hits]
        scores = self._cross.predict(pairs, show_progress_bar=False)
        order = sorted(range(len(hits)), key=lambda i: (-float(scores[i]), i))
        return [_ranked(hits[i], float(scores[i]), hits[i].ranks) for i in order]


class Chosen(Sequence[Passage]):
    """Some rows of an index's passages, read when they are asked for."""

    def __init__(self, passages: PassageParts, rows: Any) -> None:
        self._passages, self._rows = passages, rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, at: int) -> Passage: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Passage]: ...
    def __getitem__(self, at: int | slice) -> Passage | Sequence[Passage]:
        if isinstance(at, slice):
            return Chosen(self._passages, self._rows[at])
        return self._passages[int(self._rows[at])]


def _ranked(hit: Hit, score: float, ranks: Mapping[str, int], rank: int | None = None) -> Hit:
    return Hit(hit.passage, score, hit.rank if rank is None else rank, dict(ranks))


def _matching(passages: PassageParts, filters: Mapping[str, str]) -> dict[int, Any]:
    found = passages.matching(filters)
    if not found:
        wanted = ", ".join(f"{name}={value}" for name, value in filters.items())
        raise BadInput(f"‹filters›: no passage has {wanted} in its meta")
    return found


def load_cross_encoder(name: str, parameter: str = "rerank") -> Any:
    """A sentence-transformers cross-encoder; raises BadInput naming the parameter for a bad one."""
    from sentence_transformers import CrossEncoder

    try:
        return CrossEncoder(name)
    except Exception as error:  # the library raises many kinds, for a bad name or a bad folder
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(
            f"‹{parameter}={name}›: no cross-encoder could be loaded: {reason}"
        ) from error
