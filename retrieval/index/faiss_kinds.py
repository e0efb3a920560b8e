"""Kinds of FAISS index: which there are and what they cost.

All take unit vectors and the inner product, so a score is a cosine. `flat` compares with every
vector; the others look at fewer and miss some.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from neurorit.core.errors import BadInput

Kind = Literal["flat", "hnsw", "ivf", "ivf-pq", "sq8"]
KINDS: tuple[str, ...] = get_args(Kind)
# How far a search looks: lists of an inverted file, candidates of a graph.
KNOBS = {"hnsw": "efSearch", "ivf": "nprobe", "ivf-pq": "nprobe"}
LINKS = 32  # of a vector in a graph's upper layers; twice as many at its bottom
BLOCK = 16_384  # vectors that are read and added at once
_POINTS = 39  # vectors that FAISS wants for each list it trains
_CODES = 256  # values of a byte, all of which a product quantizer trains
SAMPLE = 64  # vectors of each list, or of each value of a code, that training looks at
_CODED = SAMPLE * _CODES
_RANGES = 65_536  # vectors that the ranges of sq8 are taken from
_SMALL = 10_000  # passages up to which an addition is searched exactly


def check_kind(kind: str, vectors: int, dimension: int) -> None:
    """Raise BadInput for too few vectors to train that kind."""
    least = {"ivf": _POINTS, "ivf-pq": max(_CODES, _POINTS)}.get(kind, 0)
    if vectors < least:
        raise BadInput(
            f"‹kind={kind}›: {vectors} passages are too few to train it, {least} are needed; "
            "take flat, which is exact and quick at this size"
        )
    if kind == "ivf-pq" and dimension % 4:
        raise BadInput(f"‹kind› ivf-pq: {dimension} dimensions cannot be cut into equal parts")


def bytes_per_vector(kind: str, dimension: int) -> int:
    """Bytes of memory and of disk that one vector takes."""
    found: dict[str, int] = {
        "flat": 4 * dimension,
        "hnsw": 4 * dimension + 4 * (2 * LINKS + LINKS // 16) + 24,
        "ivf": 4 * dimension + 8,
        "ivf-pq": code_parts(dimension) + 8,
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


def kind_of_addition(kind: str, vectors: int) -> str:
    """The kind of a segment that is added: a few vectors train nothing, and need no lists."""
    return "flat" if kind in ("ivf", "ivf-pq") and vectors < _SMALL else kind


def training_sample(kind: str, vectors: int) -> int:
    """Vectors that a kind is trained with; 0 for those that are not trained."""
    if kind in ("ivf", "ivf-pq"):
        return min(vectors, max(SAMPLE * lists_of(vectors), 16 * _CODES))
    return min(vectors, _RANGES) if kind == "sq8" else 0


def build_bytes(kind: str, vectors: int, dimension: int) -> int:
    """Bytes of memory that making the structure of so many vectors takes at its height."""
    row = 4 * dimension
    block = 2 * min(vectors, BLOCK) * row
    held = vectors * bytes_per_vector(kind, dimension)
    sample = training_sample(kind, vectors)
    training = sample * row
    if kind == "ivf-pq":
        training += 2 * min(sample, _CODED) * row  # a sample of its own, and what the lists leave
    if kind in ("ivf", "ivf-pq"):
        held += (
            8 * vectors + 2 * lists_of(vectors) * row
        )  # the list of each, and the lists' centres
    return max(training, held + block)


def most_vectors(kind: str, dimension: int, room: int, step: int) -> int:
    """The most vectors, in whole steps and at least one, that take at most `room` bytes."""
    low, high = 1, 2
    while build_bytes(kind, high * step, dimension) <= room:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (middle, high) if build_bytes(kind, middle * step, dimension) <= room else (low, middle)
        )
    return low * step


def code_parts(dimension: int) -> int:
    """Parts of a product quantizer: a byte for every eight dimensions, or for fewer."""
    return next(m for m in range(max(1, dimension // 8), dimension + 1) if dimension % m == 0)
