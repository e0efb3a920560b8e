"""Kinds of FAISS index: which structure, what it costs, how it is searched.

All take unit vectors and the inner product, so a score is a cosine. `flat` compares with every
vector; the others look at fewer and miss some. It knows nothing of passages or files of an index.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retrieval.errors import BadInput

KINDS = ("flat", "hnsw", "ivf", "ivf-pq", "sq8")
# How far a search looks: lists of an inverted file, candidates of a graph.
KNOBS = {"hnsw": "efSearch", "ivf": "nprobe", "ivf-pq": "nprobe"}
_LINKS = 32  # of a vector in a graph's upper layers; twice as many at its bottom
_CONSTRUCTION = 100  # candidates while a graph is built
_POINTS = 39  # vectors that FAISS wants for each list it trains
_CODES = 256  # values of a byte, all of which a product quantizer trains
_SAMPLE = 64  # vectors of each list that training looks at
_BLOCK = 65_536
_SEED = 1234


def check_kind(kind: str, vectors: int, dimension: int) -> None:
    """Raise BadInput for an unknown kind, or for too few vectors to train it."""
    if kind not in KINDS:
        raise BadInput(f"--kind {kind}: it is one of {', '.join(KINDS)}")
    least = {"ivf": _POINTS, "ivf-pq": max(_CODES, _POINTS)}.get(kind, 0)
    if vectors < least:
        raise BadInput(
            f"--kind {kind}: {vectors} passages are too few to train it, {least} are needed; "
            "take flat, which is exact and quick at this size"
        )
    if kind == "ivf-pq" and dimension % 4:
        raise BadInput(f"--kind ivf-pq: {dimension} dimensions cannot be cut into equal parts")


def bytes_per_vector(kind: str, dimension: int) -> int:
    """Bytes of memory and of disk that one vector takes."""
    found: dict[str, int] = {
        "flat": 4 * dimension,
        "hnsw": 4 * dimension + 4 * (2 * _LINKS + _LINKS // 16) + 24,
        "ivf": 4 * dimension + 8,
        "ivf-pq": _parts(dimension) + 8,
        "sq8": dimension,
    }
    return found[kind]


def lists_of(vectors: int) -> int:
    """Lists of an inverted file: about four times the square root, and enough vectors for each."""
    wanted = 1 << round(math.log2(max(1.0, 4 * math.sqrt(vectors))))
    return max(1, min(wanted, vectors // _POINTS))


def usual_effort(kind: str, vectors: int) -> int | None:
    """The knob where nothing was measured; None for kinds without one."""
    if kind == "hnsw":
        return 64
    return max(1, min(lists_of(vectors), 8 + lists_of(vectors) // 16)) if kind in KNOBS else None


def make_vectors(kind: str, path: Path, count: int, dimension: int) -> Any:
    """The FAISS index of `count` float32 vectors that lie row by row in the file `path`.

    Memory: the index itself and one block. The same file gives the same index, but for `hnsw` with
    more than one thread, whose links depend on which came first.
    """
    import faiss
    import numpy as np

    check_kind(kind, count, dimension)
    lists = lists_of(count)
    made: Any = faiss.index_factory(
        dimension,
        {
            "flat": "Flat",
            "hnsw": f"HNSW{_LINKS}",
            "ivf": f"IVF{lists},Flat",
            "ivf-pq": f"IVF{lists},PQ{_parts(dimension)}",
            "sq8": "SQ8",
        }[kind],
        faiss.METRIC_INNER_PRODUCT,
    )
    if kind == "hnsw":
        made.hnsw.efConstruction = _CONSTRUCTION
    if not made.is_trained:
        size = min(count, max(_SAMPLE * lists, 16 * _CODES))
        _quiet(made)
        rows = np.sort(np.random.default_rng(_SEED).choice(count, size, replace=False))
        made.train(_rows(path, count, dimension, rows))
    if kind == "flat":
        # Adding block by block would grow by copying, and take twice the memory.
        made.codes.resize(count * made.code_size)
        codes: Any = faiss.rev_swig_ptr(made.codes.data(), count * made.code_size)
        with open(path, "rb") as stream:
            stream.readinto(memoryview(codes))
        made.ntotal = count
        return made
    for block in blocks(path, count, dimension):
        made.add(block)
    return made


def blocks(path: Path, count: int, dimension: int) -> Iterator[Any]:
    """float32 [at most 65,536, d] parts of a file of vectors, in order."""
    import numpy as np

    with open(path, "rb") as stream:
        for start in range(0, count, _BLOCK):
            size = min(_BLOCK, count - start)
            yield np.fromfile(stream, np.float32, size * dimension).reshape(size, dimension)


def find(vectors: Any, queries: Any, k: int, effort: int | None, without: Any = None) -> Any:
    """(scores, rows) [n, k], best first; -1 where there are fewer than k.

    effort: the knob; without: int64 [m] rows that must not be found.
    """
    import faiss as library

    faiss: Any = library  # its types lag behind what it has
    chosen: dict[str, Any] = {}
    if without is not None and len(without):
        # Both must live as long as the search.
        gone = faiss.IDSelectorBatch(without)
        chosen["sel"] = faiss.IDSelectorNot(gone)
    inner = faiss.downcast_index(vectors)
    if isinstance(inner, faiss.IndexHNSW):
        params = faiss.SearchParametersHNSW(efSearch=max(k, effort or 64), **chosen)
    elif isinstance(inner, faiss.IndexIVF):
        params = faiss.SearchParametersIVF(nprobe=effort or 1, **chosen)
    else:
        params = faiss.SearchParameters(**chosen) if chosen else None
    return vectors.search(queries, k, params=params)


def tune_effort(
    vectors: Any, kind: str, path: Path, count: int, dimension: int, target: float
) -> tuple[int | None, float, int]:
    """(knob, recall@10, queries) of the least effort that reaches the target against exact search.

    The queries are 200 of the vectors themselves, drawn by a seed. The recall may stay below the
    target: then the knob is the largest. None for kinds without a knob.
    """
    import faiss
    import numpy as np

    k = min(10, count)
    rng = np.random.default_rng(_SEED)
    rows = np.sort(rng.choice(count, min(200, count), replace=False))
    queries = _rows(path, count, dimension, rows)
    heap = faiss.ResultHeap(len(queries), k, keep_max=True)
    start = 0
    for block in blocks(path, count, dimension):
        near, where = faiss.knn(queries, block, min(k, len(block)), faiss.METRIC_INNER_PRODUCT)
        heap.add_result(near, where + start)
        start += len(block)
    heap.finalize()
    exact = heap.I

    def recall(effort: int | None) -> float:
        _, found = find(vectors, queries, k, effort)
        hits = sum(len(set(a) & set(b)) for a, b in zip(found.tolist(), exact.tolist()))  # noqa: B905
        return hits / (len(queries) * k)

    most = lists_of(count) if kind != "hnsw" else 4_096
    if kind not in KNOBS:
        return None, recall(None), len(queries)
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


def _quiet(made: Any) -> None:
    """FAISS warns on stderr of samples that are smaller than it likes; ours are chosen."""
    import faiss

    inner: Any = faiss.downcast_index(made)
    for name in ("cp", "pq"):
        part = getattr(inner, name, None)
        part = getattr(part, "cp", part)
        if part is not None:
            part.min_points_per_centroid = 1


def _rows(path: Path, count: int, dimension: int, rows: Any) -> Any:
    """float32 [n, d]: some rows (ascending) of a file of vectors."""
    import numpy as np

    found, start = [], 0
    for block in blocks(path, count, dimension):
        inside = rows[(rows >= start) & (rows < start + len(block))] - start
        found.append(block[inside])
        start += len(block)
    return np.concatenate(found)


def _parts(dimension: int) -> int:
    """Parts of a product quantizer: a byte for every eight dimensions, or for fewer."""
    return next(m for m in range(max(1, dimension // 8), dimension + 1) if dimension % m == 0)
