"""How passages are found, and how a corpus becomes an index. It imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_args

from neurorit.core.errors import BadInput
from neurorit.core.settings import AtLeastOne, Count, Settings, Share, Within
from neurorit.core.units import Amount
from neurorit.retrieval.bm25.words import ENGLISH
from neurorit.retrieval.corpus.chunking import Chunking
from neurorit.retrieval.index.faiss_kinds import Kind, most_vectors

Mode = Literal["dense", "bm25", "hybrid", "sparse"]
Fusion = Literal["scores", "ranks"]
MODES: tuple[str, ...] = get_args(Mode)
FUSIONS: tuple[str, ...] = get_args(Fusion)
CHUNK = 1024  # passages that are encoded at once, and of which segments are whole multiples
# Of the memory, what a segment's structure may take; the rest is the encoder's and the text's.
_SHARE = 0.3


@dataclass(frozen=True)
class SearchSettings(Settings):
    """How passages are found."""

    mode: Mode = "dense"
    """By vectors (dense), by words (bm25), by both (hybrid), or by the weights that a sparse
    encoder such as SPLADE gives to words (sparse; `index --sparse`)."""
    depth: AtLeastOne = 100
    """Passages of each part that are fused or reranked."""
    fusion: Fusion = "scores"
    """How a hybrid search is fused: by scores, or by reciprocal ranks (RRF)."""
    dense_weight: Share = 0.7
    """The dense part's share in hybrid; docs/results.md says where 0.7 comes from."""
    rrf: Annotated[float, Within(0)] = 60.0
    """The constant of reciprocal ranks."""
    rerank: str = ""
    """A cross-encoder's folder or name; empty: none."""
    filters: Mapping[str, str] = field(default_factory=dict)
    """Fields of a passage's `meta`, and the values that they must have."""
    effort: Count = 0
    """nprobe of ivf, efSearch of hnsw; 0: as tuned."""


@dataclass(frozen=True)
class BuildSettings(Settings):
    """How an index is built."""

    kind: Kind = "flat"
    """FAISS's: flat (exact), hnsw, ivf, ivf-pq or sq8."""
    memory: Annotated[int, Amount(64 * 10**6)] = 4 * 10**9
    """What a build may take, such as 512MB or 2GiB."""
    target: Share | None = None
    """Tune the search to this recall@10 against exact search, such as 0.98."""
    recall_queries: Path | None = None
    """JSONL of questions to tune with; without, passages of the index."""
    vectors: Path | None = None
    """A .npy file with a row for each passage, in place of encoding."""
    trust_vectors: bool = False
    """Take vectors that are unlike the encoder's."""
    chunking: Chunking = field(default_factory=Chunking)
    """How documents, and long records, are cut."""
    near_duplicates: float = 0.0
    """Find passages that overlap by this share, such as 0.9; 0: same ones only."""
    drop_duplicates: bool = False
    """Leave out passages that repeat an earlier one."""
    skip_bad: bool = False
    """Leave out lines and files that cannot be read, and list them."""
    language: str = ENGLISH
    """Of BM25's stems and stop words: english, german ... or none."""
    batch_size: AtLeastOne = 64
    """Passages encoded at once."""
    threads: Count = 0
    """Of FAISS; 0: its own choice."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.drop_duplicates and self.vectors:
            raise BadInput("‹drop_duplicates›: the rows of ‹vectors› would be other passages'")
        if self.skip_bad and self.vectors:
            raise BadInput("‹skip_bad›: the rows of ‹vectors› would be other passages'")
        if self.recall_queries is not None and self.target is None:
            raise BadInput("‹recall_queries›: say the recall to reach with ‹target›")
        if self.recall_queries is not None and not self.recall_queries.is_file():
            raise BadInput(f"‹recall_queries={self.recall_queries}›: no such file")

    def segment(self, dimension: int) -> int:
        """Passages of a segment: whole chunks, so that always the same ones go together."""
        return most_vectors(self.kind, dimension, int(self.memory * _SHARE), CHUNK)
