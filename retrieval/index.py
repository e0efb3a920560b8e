"""The index: passages and their vectors in a FAISS index, as one checked artifact.

`passages.jsonl` and `vectors.faiss` share an order: row i is line i. The manifest records which
encoder made the vectors; loading refuses any other. It knows nothing of questions or models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from retrieval.artifact import Manifest, read_manifest, writing
from retrieval.chunking import WORDS
from retrieval.corpus import corpus_digest, parse_passage, read_corpus
from retrieval.encoder import DEFAULT, Encoder, load_encoder
from retrieval.errors import ArtifactError, BadInput
from retrieval.examples import Passage

PASSAGES = "passages.jsonl"
VECTORS = "vectors.faiss"
_CHUNK = 1024

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Hit:
    """A passage that a search found: score is the cosine similarity, rank starts at 1.

    ranks: where each part of a combined search had it (see `retrieval.search`).
    """

    passage: Passage
    score: float
    rank: int
    ranks: Mapping[str, int] = field(default_factory=dict)


def build_index(
    corpus: Path,
    out: Path,
    *,
    encoder: str | Encoder = DEFAULT,
    batch_size: int = 64,
    words: int = WORDS,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Encode a corpus into an index artifact at `out`; returns counts.

    encoder: a name, or one that is loaded already. words: of a chunk, where the corpus is a
    folder of documents.
    Raises BadInput for a corpus that cannot be read; then nothing is left at `out`.
    """
    import faiss

    # A first pass over the text alone finds every bad line before any time goes into vectors.
    total = sum(1 for _ in read_corpus(corpus, words=words))
    made: dict[str, Any] = {}
    name = encoder if isinstance(encoder, str) else encoder.name
    manifest = Manifest(
        kind="index",
        command="neurorit-rag index",
        settings={"encoder": name, "kind": "flat"},
        inputs={"corpus": corpus_digest(corpus)},
        made=made,
    )
    with writing(out, manifest, overwrite=overwrite) as folder:
        model = (
            load_encoder(encoder, batch_size=batch_size) if isinstance(encoder, str) else encoder
        )
        vectors = faiss.IndexFlatIP(model.dimension)
        with open(folder / PASSAGES, "w", encoding="utf-8") as stream:
            for chunk in _chunks(read_corpus(corpus, words=words), _CHUNK):
                vectors.add(model.encode_passages([passage_text(p) for p in chunk]))
                stream.writelines(_line(passage) for passage in chunk)
                if progress is not None:
                    progress(vectors.ntotal, total)
        faiss.write_index(vectors, str(folder / VECTORS))
        made.update(passages=total, dimension=model.dimension, fingerprint=model.fingerprint)
    return {"passages": total, "dimension": model.dimension, "encoder": name}


class Index:
    """A loaded index. Make one with `Index.load`."""

    def __init__(self, passages: Sequence[Passage], vectors: Any, encoder: Encoder) -> None:
        self.passages = passages
        self.encoder = encoder
        self._vectors = vectors
        self._rows = {passage.id: row for row, passage in enumerate(passages)}

    @classmethod
    def load(cls, directory: Path, *, encoder: Encoder | None = None) -> Index:
        """Read and check an index artifact.

        encoder: one that is loaded already; None loads the one that the manifest names. Raises
        ArtifactError if a file is missing or changed, or if the encoder is another one.
        """
        import faiss

        directory = Path(directory)
        manifest = read_manifest(directory, "index")
        with open(directory / PASSAGES, encoding="utf-8") as stream:
            passages = [parse_passage(json.loads(line)) for line in stream]
        vectors = faiss.read_index(str(directory / VECTORS))
        if vectors.ntotal != len(passages):
            raise ArtifactError(
                f"{directory} holds {len(passages)} passages but {vectors.ntotal} vectors; "
                "build it again with `neurorit-rag index`"
            )
        model = encoder or load_encoder(str(manifest.settings["encoder"]))
        if model.fingerprint != manifest.made["fingerprint"]:
            raise ArtifactError(
                f"{directory} was built with another encoder than {model.name!r} now is; "
                "build it again with `neurorit-rag index`"
            )
        return cls(passages, vectors, model)

    def __len__(self) -> int:
        return len(self.passages)

    def passage(self, passage_id: str) -> Passage:
        """The passage of that id; raises BadInput if there is none."""
        row = self._rows.get(passage_id)
        if row is None:
            raise BadInput(f"the index has no passage {passage_id!r}")
        return self.passages[row]

    def __contains__(self, passage_id: object) -> bool:
        return passage_id in self._rows

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """For each query its k nearest passages, best first (fewer if the index holds fewer)."""
        if k < 1:
            raise BadInput(f"k must be at least 1, not {k}")
        if not queries:
            return []
        return self.search_vectors(self.encoder.encode_queries(queries), k)

    def search_vectors(self, vectors: Any, k: int) -> list[list[Hit]]:
        """The same for queries that are encoded already: float32 [n, d]."""
        scores, rows = self._vectors.search(vectors, min(k, len(self.passages)))
        return [
            [
                Hit(self.passages[row], float(score), rank)
                for rank, (row, score) in enumerate(zip(found, close, strict=True), start=1)
            ]
            for found, close in zip(rows, scores, strict=True)
        ]


def passage_text(passage: Passage) -> str:
    """What is encoded of a passage: its title and its text."""
    return f"{passage.title}: {passage.text}" if passage.title else passage.text


def _line(passage: Passage) -> str:
    record: dict[str, Any] = {"id": passage.id, "title": passage.title, "text": passage.text}
    if passage.meta:
        record["meta"] = dict(passage.meta)
    return json.dumps(record, ensure_ascii=False) + "\n"


def _chunks(passages: Iterator[Passage], size: int) -> Iterator[list[Passage]]:
    while chunk := list(islice(passages, size)):
        yield chunk
