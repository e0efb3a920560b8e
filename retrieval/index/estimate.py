"""What building an index will take, before anything is built: memory, disk, time.

The corpus is read, the encoder timed on a sample of it, and a small structure of the kind made of
random vectors; nothing is written that stays.
"""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from typing import Any

from neurorit.retrieval.bm25.words import check_language
from neurorit.retrieval.corpus.reader import Skipped, read_corpus
from neurorit.retrieval.encoders.load import load_encoder
from neurorit.retrieval.index.build import LEFT_OUT
from neurorit.retrieval.index.faiss_build import make_vectors
from neurorit.retrieval.index.faiss_kinds import (
    build_bytes,
    bytes_per_vector,
    check_kind,
    lists_of,
    training_sample,
)
from neurorit.retrieval.index.passage_store import passage_line
from neurorit.retrieval.index.segments import passage_text
from neurorit.retrieval.settings import BuildSettings

_SAMPLE = 128
_TRIED = 4_096  # vectors of the structure that is timed
# A process with the encoder and FAISS loaded, and what passes through it.
_BASE = 700 * 2**20
_ROUNDS = 10  # of k-means, each of which compares all of a sample with all lists


def plan_index(corpus: Path, encoder: str, settings: BuildSettings) -> dict[str, Any]:
    """Passages, bytes and seconds of a build; raises BadInput as the build would.

    The seconds are estimates: of encoding within a fifth, of the structure within a factor of two.
    """
    check_language(settings.language)
    passages = text = 0
    sample: list[str] = []
    step = 1
    skipped = Skipped(settings.skip_bad, LEFT_OUT)
    for passage in read_corpus(corpus, chunking=settings.chunking, skipped=skipped):
        if passages % step == 0:
            sample.append(passage_text(passage))
            if len(sample) == 2 * _SAMPLE:
                # Half as many, twice as far apart: a sorted corpus is sampled all over.
                sample, step = sample[::2], 2 * step
        passages += 1
        text += len(passage_line(passage))
    model = load_encoder(encoder, batch_size=settings.batch_size)
    dimension = model.dimension
    check_kind(settings.kind, passages, dimension)
    segment = min(passages, settings.segment(dimension))
    seconds = 0.0
    if settings.vectors is None:
        model.encode_passages(sample[:8])
        started = time.perf_counter()
        model.encode_passages(sample)
        seconds = (time.perf_counter() - started) / len(sample) * passages
    vectors = passages * bytes_per_vector(settings.kind, dimension)
    raw = segment * dimension * 4
    places = 16 * passages
    return {
        "passages": passages,
        "dimension": dimension,
        "kind": settings.kind,
        "segments": -(-passages // segment),
        "build_memory_bytes": _BASE + build_bytes(settings.kind, segment, dimension),
        "search_memory_bytes": _BASE,
        "mapped_bytes": vectors + text + places,
        "disk_bytes": vectors + text + places,
        "disk_bytes_while_building": vectors + text + places + raw,
        "encoding_seconds": round(seconds, 1),
        "structure_seconds": round(
            passages / segment * structure_seconds(settings.kind, segment, dimension), 1
        ),
    }


def structure_seconds(kind: str, vectors: int, dimension: int) -> float:
    """Seconds to make the structure of so many vectors, from the time of a small one."""
    import numpy as np

    tried = min(vectors, _TRIED)
    rows = np.random.default_rng(0).standard_normal((tried, dimension), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors"
        rows.tofile(path)
        make_vectors(kind, path, tried, dimension)
        started = time.perf_counter()
        make_vectors(kind, path, tried, dimension)
        taken = time.perf_counter() - started
    return taken * _work(kind, vectors) / _work(kind, tried)


def _work(kind: str, vectors: int) -> float:
    """How the time of a kind grows: comparisons of vectors, but for a constant."""
    if kind == "hnsw":
        return vectors * math.log2(vectors + 1)
    if kind in ("ivf", "ivf-pq"):
        return (_ROUNDS * training_sample(kind, vectors) + vectors) * lists_of(vectors)
    return vectors
