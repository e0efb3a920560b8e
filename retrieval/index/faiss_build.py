"""FAISS structures made from vectors in a file, in memory that is known beforehand.

Room is made before anything is added: what grows by itself grows by copying, and takes twice as
much.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neurorit.retrieval.index.faiss_kinds import (
    BLOCK,
    LINKS,
    SAMPLE,
    check_kind,
    code_parts,
    lists_of,
    training_sample,
)

SEED = 1234
_CONSTRUCTION = 100  # candidates while a graph is built


def make_vectors(kind: str, path: Path, count: int, dimension: int) -> Any:
    """The FAISS index of `count` float32 vectors that lie row by row in the file `path`.

    Memory: `index.faiss_kinds.build_bytes`. The same file gives the same index, but for `hnsw` with
    more than one thread, whose links depend on which came first.
    """
    import faiss

    check_kind(kind, count, dimension)
    lists = lists_of(count)
    made: Any = faiss.index_factory(
        dimension,
        {
            "flat": "Flat",
            "hnsw": f"HNSW{LINKS}",
            "ivf": f"IVF{lists},Flat",
            "ivf-pq": f"IVF{lists},PQ{code_parts(dimension)}",
            "sq8": "SQ8",
        }[kind],
        faiss.METRIC_INNER_PRODUCT,
    )
    if not made.is_trained:
        _train(made, path, count, dimension, training_sample(kind, count))
    if kind == "flat":
        made.codes.resize(count * made.code_size)
        codes: Any = faiss.rev_swig_ptr(made.codes.data(), count * made.code_size)
        with open(path, "rb") as stream:
            stream.readinto(memoryview(codes))
        made.ntotal = count
        return made
    if kind in ("ivf", "ivf-pq"):
        _add_to_lists(made, path, count, dimension)
        return made
    if kind == "hnsw":
        made.hnsw.efConstruction = _CONSTRUCTION
        storage: Any = faiss.downcast_index(made.storage)
        _reserve(storage.codes, count * 4 * dimension)
        # The upper layers hold a thirty-second of the vectors, each with one more set of links.
        _reserve(made.hnsw.neighbors, count * (2 * LINKS + LINKS // 16))
    else:
        _reserve(made.codes, count * made.code_size)
    for block in blocks(path, count, dimension):
        made.add(block)
    return made


def blocks(path: Path, count: int, dimension: int) -> Iterator[Any]:
    """float32 [at most BLOCK, d] parts of a file of vectors, in order."""
    import numpy as np

    with open(path, "rb") as stream:
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            yield np.fromfile(stream, np.float32, size * dimension).reshape(size, dimension)


def rows_of(path: Path, count: int, dimension: int, rows: Any) -> Any:
    """float32 [n, d]: some rows (ascending) of a file of vectors."""
    import numpy as np

    found = np.empty((len(rows), dimension), dtype=np.float32)
    start = filled = 0
    for block in blocks(path, count, dimension):
        inside = rows[(rows >= start) & (rows < start + len(block))] - start
        found[filled : filled + len(inside)] = block[inside]
        start, filled = start + len(block), filled + len(inside)
    return found


def _train(made: Any, path: Path, count: int, dimension: int, size: int) -> None:
    import numpy as np

    _quiet(made)
    if hasattr(made, "pq"):
        made.pq.cp.max_points_per_centroid = SAMPLE
    rows = np.sort(np.random.default_rng(SEED).choice(count, size, replace=False))
    made.train(rows_of(path, count, dimension, rows))


def _add_to_lists(made: Any, path: Path, count: int, dimension: int) -> None:
    """Find the list of every vector, make room in the lists, and only then put them in."""
    import faiss
    import numpy as np

    lists = np.empty(count, dtype=np.int64)
    start = 0
    for block in blocks(path, count, dimension):
        lists[start : start + len(block)] = made.quantizer.search(block, 1)[1][:, 0]
        start += len(block)
    for number, size in enumerate(np.bincount(lists, minlength=made.nlist).tolist()):
        made.invlists.resize(number, size)
        made.invlists.resize(number, 0)
    start = 0
    for block in blocks(path, count, dimension):
        part = np.ascontiguousarray(lists[start : start + len(block)])
        made.add_core(len(block), faiss.swig_ptr(block), None, faiss.swig_ptr(part))
        start += len(block)


def _reserve(held: Any, size: int) -> None:
    """Room for so many elements in a vector of C++, which keeps it when it is emptied."""
    before = held.size()
    held.resize(size)
    held.resize(before)


def _quiet(made: Any) -> None:
    """FAISS warns on stderr of samples that are smaller than it likes; ours are chosen."""
    import faiss

    inner: Any = faiss.downcast_index(made)
    for name in ("cp", "pq"):
        part = getattr(inner, name, None)
        part = getattr(part, "cp", part)
        if part is not None:
            part.min_points_per_centroid = 1
