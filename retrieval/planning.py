"""What building an index will take, before anything is built: memory, disk, time.

The corpus is read and the encoder timed on a sample of it; nothing is written.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from retrieval.building import BuildSettings, passage_text
from retrieval.corpus import Skipped, read_corpus
from retrieval.encoder import load_encoder
from retrieval.kinds import bytes_per_vector, check_kind
from retrieval.passages import passage_line

_SAMPLE = 128
# A process with the encoder and FAISS loaded, and what passes through it.
_BASE = 700 * 2**20


def plan_index(corpus: Path, encoder: str, settings: BuildSettings) -> dict[str, Any]:
    """Passages, bytes and seconds of a build; raises BadInput as the build would."""
    passages = text = 0
    sample: list[str] = []
    step = 1
    skipped = Skipped() if settings.skip_bad else None
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
        "build_memory_bytes": _BASE + segment * bytes_per_vector(settings.kind, dimension),
        "search_memory_bytes": _BASE,
        "mapped_bytes": vectors + text + places,
        "disk_bytes": vectors + text + places,
        "disk_bytes_while_building": vectors + text + places + raw,
        "encoding_seconds": round(seconds, 1),
    }
