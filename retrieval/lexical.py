"""BM25 over an index's passages: an artifact of its own, beside the index that it belongs to.

bm25s does the scoring, a Snowball stemmer the word forms. The artifact is made on first use and
again when the index has changed. It knows nothing of vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retrieval.artifact import Manifest, hash_inputs, read_manifest, writing
from retrieval.errors import ArtifactError
from retrieval.examples import Passage

_METHOD = {"method": "lucene", "k1": 1.2, "b": 0.75, "stemmer": "english", "stopwords": "english"}


class LexicalIndex:
    """BM25 of the passages of an index. Make one with `LexicalIndex.of`."""

    def __init__(self, bm25: Any, size: int) -> None:
        self._bm25 = bm25
        self._size = size

    @classmethod
    def of(cls, index: Path, passages: Sequence[Passage]) -> LexicalIndex:
        """The BM25 artifact `INDEX-bm25`, made now unless it is there and belongs to the index."""
        import bm25s

        place = Path(index).with_name(f"{Path(index).name}-bm25")
        inputs = hash_inputs(index=Path(index))
        if not _belongs(place, inputs):
            manifest = Manifest("bm25", "neurorit-rag search", settings=_METHOD, inputs=inputs)
            bm25 = bm25s.BM25(
                method=str(_METHOD["method"]), k1=_METHOD["k1"], b=_METHOD["b"], dtype="float32"
            )
            # A corpus without a single word would leave bm25s without a vocabulary.
            tokens = _tokens([f"{p.title} {p.text}" for p in passages])
            if not any(tokens):
                tokens[0] = [" "]
            bm25.index(tokens, show_progress=False)
            with writing(place, manifest, overwrite=True) as folder:
                bm25.save(folder, show_progress=False)
        return cls(bm25s.BM25.load(place, mmap=True, show_progress=False), len(passages))

    def search(
        self, queries: Sequence[str], k: int, allowed: Any = None
    ) -> list[list[tuple[int, float]]]:
        """For each query (row, score) of at most k passages, best first; none without a word of it.

        allowed: float32 [passages], 1 where a passage may be found and 0 elsewhere.
        """
        import numpy as np

        found: list[list[tuple[int, float]]] = []
        for words in _tokens(queries):
            known = [word for word in words if word in self._bm25.vocab_dict]
            if not known:
                found.append([])
                continue
            scores = self._bm25.get_scores(known)
            if allowed is not None:
                scores = scores * allowed
            count = min(k, self._size)
            best = np.argpartition(-scores, count - 1)[:count]
            # Equal scores come in the passages' order, so that a search gives the same twice.
            best = best[np.lexsort((best, -scores[best]))]
            found.append([(int(row), float(scores[row])) for row in best if scores[row] > 0])
        return found


def _belongs(place: Path, inputs: dict[str, str]) -> bool:
    try:
        manifest = read_manifest(place, "bm25", verify=False)
    except ArtifactError:
        return False
    return dict(manifest.inputs) == inputs and dict(manifest.settings) == _METHOD


def _tokens(texts: Sequence[str]) -> list[list[str]]:
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer(str(_METHOD["stemmer"]))
    found: list[list[str]] = bm25s.tokenize(
        list(texts),
        stopwords=str(_METHOD["stopwords"]),
        stemmer=stemmer,
        return_ids=False,
        show_progress=False,
    )
    return found
