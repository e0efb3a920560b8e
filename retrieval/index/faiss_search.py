"""Nearest vectors in one FAISS structure, among all of them or only some.

A graph or an inverted file looks at a part of its vectors. Where only some may be found it must
look further; where they are few, or it found fewer than there are, they are compared one by one.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from neurorit.retrieval.index.faiss_build import SEED, blocks, rows_of
from neurorit.retrieval.index.faiss_kinds import KNOBS, lists_of

# So few rows, or so small a share of all, are compared one by one sooner than looked for.
_FEW, _SHARE = 20_000, 1 / 16


def find(
    vectors: Any, queries: Any, k: int, effort: int | None, without: Any = None, only: Any = None
) -> Any:
    """(scores, rows) [n, k], best first; -1 only where there are fewer than k.

    effort: nprobe of an inverted file, efSearch of a graph; without: int64 [m] rows that must not
    be found, ascending; only: int64 [m] the rows that may be found, ascending, in its place.
    """
    import faiss as library
    import numpy as np

    faiss: Any = library  # its types lag behind what it has
    inner = faiss.downcast_index(vectors)
    left = vectors.ntotal
    if only is not None:
        left = len(only)
    elif without is not None:
        left -= len(without)
    if not left:
        shape = (len(queries), k)
        return np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64)
    share = left / vectors.ntotal
    if only is not None and (left <= _FEW or share < _SHARE):
        return _exactly(faiss, inner, queries, k, without, only)
    held, chosen = _selector(faiss, vectors.ntotal, without, only)
    if isinstance(inner, faiss.IndexHNSW):
        wide = max(k, math.ceil((effort or 64) / share))
        params = faiss.SearchParametersHNSW(efSearch=wide, **chosen)
    elif isinstance(inner, faiss.IndexIVF):
        probed = min(inner.nlist, math.ceil((effort or 1) / share))
        params = faiss.SearchParametersIVF(nprobe=probed, **chosen)
    else:
        return _exactly(faiss, inner, queries, k, without, only)
    scores, rows = vectors.search(queries, k, params=params)
    del held
    short = np.flatnonzero((rows >= 0).sum(axis=1) < min(k, left))
    if len(short):
        scores[short], rows[short] = _exactly(faiss, inner, queries[short], k, without, only)
    return scores, rows


def _exactly(faiss: Any, inner: Any, queries: Any, k: int, without: Any, only: Any) -> Any:
    """The same by comparing with every vector that may be found."""
    if isinstance(inner, faiss.IndexIVF):
        held, chosen = _selector(faiss, inner.ntotal, without, only)
        params = faiss.SearchParametersIVF(nprobe=inner.nlist, **chosen)
        return inner.search(queries, k, params=params)
    if isinstance(inner, faiss.IndexHNSW):
        inner = faiss.downcast_index(inner.storage)
    if only is not None and isinstance(inner, faiss.IndexFlat) and len(only) < inner.ntotal // 4:
        # An array of rows makes FAISS look at no others.
        held, chosen = only, {"sel": faiss.IDSelectorArray(only)}
    else:
        held, chosen = _selector(faiss, inner.ntotal, without, only)
    params = faiss.SearchParameters(**chosen) if chosen else None
    found = inner.search(queries, k, params=params)
    del held
    return found


def _selector(faiss: Any, total: int, without: Any, only: Any) -> tuple[Any, dict[str, Any]]:
    """(what must live as long as the search, parameters that choose the rows)."""
    import numpy as np

    if only is not None:
        inside = np.zeros(total, dtype=bool)
        inside[only] = True
        bits = np.packbits(inside, bitorder="little")
        return bits, {"sel": faiss.IDSelectorBitmap(bits)}
    if without is not None and len(without):
        gone = faiss.IDSelectorBatch(without)
        return gone, {"sel": faiss.IDSelectorNot(gone)}
    return None, {}


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
