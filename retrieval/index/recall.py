"""How far a search must look to find what exact search finds: measured, then chosen.

It knows nothing of passages or of files of an index.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neurorit.retrieval.index.faiss_build import SEED, blocks, rows_of
from neurorit.retrieval.index.faiss_kinds import KNOBS, lists_of
from neurorit.retrieval.index.faiss_search import find

_QUERIES = 200
_K = 10


def tune_effort(
    vectors: Any,
    kind: str,
    path: Path,
    count: int,
    dimension: int,
    target: float,
    queries: Any = None,
) -> tuple[int | None, float, int]:
    """(knob, recall@10, queries) of the least effort that reaches the target against exact search.

    queries: float32 [q, d]; None takes 200 of the vectors themselves, drawn by a seed, and counts
    none among its own neighbours. The recall may stay below the target: then the knob is the
    largest. The knob is None for kinds without one.
    """
    import faiss
    import numpy as np

    own: Any = None
    if queries is None:
        rng = np.random.default_rng(SEED)
        own = np.sort(rng.choice(count, min(_QUERIES, count), replace=False))
        queries = rows_of(path, count, dimension, own)
    # A query that is in the index finds itself with any effort: that would flatter the recall.
    k = min(_K, count) if own is None else min(_K + 1, count)
    heap = faiss.ResultHeap(len(queries), k, keep_max=True)
    start = 0
    for block in blocks(path, count, dimension):
        near, where = faiss.knn(queries, block, min(k, len(block)), faiss.METRIC_INNER_PRODUCT)
        heap.add_result(near, where + start)
        start += len(block)
    heap.finalize()
    exact = _others(heap.I, own)

    def recall(effort: int | None) -> float:
        found = _others(find(vectors, queries, k, effort)[1], own)
        hits = sum(len(a & b) for a, b in zip(found, exact, strict=True))
        wanted = sum(map(len, exact))
        return hits / wanted if wanted else 1.0

    if kind not in KNOBS:
        return None, recall(None), len(queries)
    most = lists_of(count) if kind != "hnsw" else 4_096
    effort, found = 1, recall(1)
    while found < target and effort < most:
        effort = min(most, effort * 2)
        found = recall(effort)
    low, high = effort // 2, effort
    while found >= target and high - low > max(1, high // 16):
        middle = (low + high) // 2
        if (between := recall(middle)) >= target:
            high, found = middle, between
        else:
            low = middle
    return high if found >= target else effort, found, len(queries)


def _others(rows: Any, own: Any) -> list[set[int]]:
    """The rows that were found for each query, at most ten, without the query's own."""
    if own is None:
        return [set(found) - {-1} for found in rows.tolist()]
    return [
        set([row for row in found if row not in (-1, self)][:_K])
        for found, self in zip(rows.tolist(), own.tolist(), strict=True)
    ]
