"""Nearest vectors in one FAISS structure, among all of them or only some.

A graph or an inverted file looks at a part of its vectors. Where only some may be found it must
look further; where they are few, or it found fewer than there are, they are compared one by one.
It knows nothing of passages.
"""

from __future__ import annotations

import math
from typing import Any

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
