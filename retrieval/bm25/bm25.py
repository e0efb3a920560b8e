"""BM25 over an index's passages: an artifact of its own, beside the index that it belongs to.

bm25s does the scoring, a Snowball stemmer the word forms. The artifact is made by `index --bm25`,
or on first use, and again when the index has changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from neurorit.core.artifact import Manifest, read_manifest, writing
from neurorit.core.errors import ArtifactError, BadInput
from neurorit.data.examples import Passage
from neurorit.retrieval.bm25.build import method_of, write_bm25
from neurorit.retrieval.bm25.words import ENGLISH, words_of
from neurorit.retrieval.index.mapped_files import MappedFiles, is_small

MEMORY = 10**9  # bytes that making the artifact should not exceed, beside the vocabulary


class LexicalIndex:
    """BM25 of the passages of an index. Make one with `LexicalIndex.of`."""

    def __init__(
        self, bm25: Any, size: int, language: str = ENGLISH, mapped: Iterable[Path] = ()
    ) -> None:
        self._files = MappedFiles(mapped)
        self._bm25 = bm25
        self._size = size
        self._language = language

    @classmethod
    def of(
        cls,
        index: Path,
        passages: Sequence[Passage],
        digest: str,
        *,
        memory: int = MEMORY,
        in_memory: bool = False,
    ) -> LexicalIndex:
        """The BM25 artifact `INDEX-bm25`, made now unless it is there and of the same passages.

        digest: of the manifest that the passages were loaded with, which may have been replaced
        since; in_memory: read its files where they are large too. Raises BadInput where it must be
        made and cannot be written.
        """
        import bm25s

        place, language = lexical_place(index), _language(index)
        method = method_of(language)
        if not _belongs(place, method, digest, len(passages)):
            manifest = Manifest(
                "bm25",
                "neurorit-rag search",
                settings=method,
                inputs={"index": digest},
                made={"passages": len(passages)},
            )
            try:
                with writing(place, manifest, overwrite=True) as folder:
                    write_bm25(folder, (f"{p.title} {p.text}" for p in passages), memory, language)
            except OSError as error:
                raise BadInput(
                    f"{place}: BM25 of this index cannot be written there ({error.strerror}); "
                    "make it where that is allowed, with `neurorit-rag index --bm25`"
                ) from error
        files = [path for path in place.iterdir() if path.is_file()]
        mapped = not (in_memory or is_small(files))
        return cls(
            bm25s.BM25.load(place, mmap=mapped, show_progress=False),
            len(passages),
            language,
            files if mapped else (),
        )

    def search(
        self, queries: Sequence[str], k: int, only: Any = None
    ) -> list[list[tuple[int, float]]]:
        """For each query (row, score) of at most k passages, best first; none without a word of it.

        only: int64 rows, to find no others.
        """
        self._files.check()
        found: list[list[tuple[int, float]]] = []
        for words in words_of(queries, self._language):
            known = [word for word in words if word in self._bm25.vocab_dict]
            scores = self._bm25.get_scores(known) if known and self._size else ()
            found.append(best_rows(scores, k, only))
        return found


def best_rows(scores: Any, k: int, only: Any = None) -> list[tuple[int, float]]:
    """(row, score) of at most k of the scores [n] above zero, best first.

    only: int64 rows, to take no others.
    """
    import numpy as np

    if not len(scores) or (only is not None and not len(only)):
        return []
    rows = np.arange(len(scores)) if only is None else only
    scores = scores[rows]
    count = min(k, len(scores))
    best = np.argpartition(-scores, count - 1)[:count]
    # Equal scores come in the passages' order, so that a search gives the same twice.
    best = best[np.lexsort((rows[best], -scores[best]))]
    return [(int(rows[i]), float(scores[i])) for i in best if scores[i] > 0]


def lexical_place(index: Path) -> Path:
    """Where the BM25 artifact of an index lies."""
    return Path(index).with_name(f"{Path(index).name}-bm25")


def _language(index: Path) -> str:
    """That of `index --language`; English for an index that does not say."""
    try:
        manifest = read_manifest(Path(index), "index", verify=False)
    except ArtifactError:
        return ENGLISH
    return str(manifest.settings.get("language", ENGLISH))


def _belongs(place: Path, method: dict[str, Any], digest: str, passages: int) -> bool:
    try:
        manifest = read_manifest(place, "bm25", verify=False)
    except ArtifactError:
        return False
    return (
        dict(manifest.inputs) == {"index": digest}
        and dict(manifest.settings) == method
        and manifest.made["passages"] == passages
    )
