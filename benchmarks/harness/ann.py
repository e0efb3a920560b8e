"""A graph against exact search: queries a second at the same recall, one thread each."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

DIMENSION, QUERIES, K = 384, 500, 10


def measure(passages: int) -> tuple[list[tuple[str, str, float, str]], dict[str, float]]:
    """(rows of a Bench, ratios) for `passages` clustered vectors made by a seed.

    The queries are new points of the same clusters. The least efSearch with recall@10 of 0.98 on
    half of the queries is measured on the other half.
    """
    import faiss

    from neurorit.retrieval.index.faiss_build import make_vectors
    from neurorit.retrieval.index.faiss_search import find

    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "vectors"
        queries = _write(raw, passages)
        rows: list[tuple[str, str, float, str]] = []
        flat = make_vectors("flat", raw, passages, DIMENSION)
        started = time.perf_counter()
        print(f"  building a graph of {passages} vectors", file=sys.stderr, flush=True)
        graph = make_vectors("hnsw", raw, passages, DIMENSION)
        rows.append(("hnsw", "build", time.perf_counter() - started, "s"))
    faiss.omp_set_num_threads(1)
    exact = flat.search(queries, K)[1]
    choosing, asked = slice(0, QUERIES // 2), slice(QUERIES // 2, QUERIES)

    def recall(effort: int, part: slice) -> float:
        found = find(graph, queries[part], K, effort)[1]
        pairs = zip(found.tolist(), exact[part].tolist(), strict=True)
        return sum(len(set(a) & set(b)) for a, b in pairs) / (K * len(found))

    effort = next((e for e in (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024)
                   if recall(e, choosing) >= 0.98), 1024)  # fmt: skip
    reached = recall(effort, asked)
    rates: dict[str, list[float]] = {"flat": [], "hnsw": []}
    for _ in range(3):
        for name, search in (
            ("flat", lambda q: flat.search(q, K)),
            ("hnsw", lambda q: find(graph, q, K, effort)),
        ):
            part: Any = queries[asked]
            part = part[:40] if name == "flat" else part
            started = time.perf_counter()
            # One query at a time, as a server gets them.
            for query in part:
                search(query[None])
            rates[name].append(len(part) / (time.perf_counter() - started))
    best = {name: max(found) for name, found in rates.items()}
    rows += [(name, "queries", rate, "queries/s") for name, rate in best.items()]
    rows += [("hnsw", "efSearch", effort, ""), ("hnsw", "recall@10", reached, "")]
    ratios = {"hnsw_vs_flat_qps": best["hnsw"] / best["flat"], "hnsw_recall_at_10": reached}
    return rows, ratios


def _write(path: Path, count: int) -> Any:
    """Unit vectors around 4 * sqrt(count) centres, to a file; returns queries of the same kind."""
    import numpy as np

    rng = np.random.default_rng(0)
    centres = rng.standard_normal((int(4 * count**0.5), DIMENSION), dtype=np.float32)

    def drawn(size: int) -> Any:
        around = centres[rng.integers(0, len(centres), size)]
        made = around + 0.7 * rng.standard_normal((size, DIMENSION), dtype=np.float32)
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    with open(path, "wb") as stream:
        for start in range(0, count, 50_000):
            stream.write(drawn(min(50_000, count - start)).astype(np.float32).tobytes())
    return np.ascontiguousarray(drawn(QUERIES), dtype=np.float32)
