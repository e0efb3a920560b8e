"""An encoder for tests of indexes: quick, without a model, and stopped where a test says."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np


class CountingEncoder:
    """Vectors by a text's checksum, so that every passage is its own nearest one.

    It counts what it encodes, and can stop after so many.
    """

    name = "counting"
    dimension = 32

    def __init__(self, fingerprint: str = "one", stop: int | None = None) -> None:
        self.fingerprint = fingerprint
        self.stop = stop
        self.encoded = 0

    def encode_passages(self, texts: Sequence[str]) -> Any:
        if self.stop is not None and self.encoded >= self.stop:
            raise KeyboardInterrupt
        self.encoded += len(texts)
        rows = [np.random.default_rng(zlib.crc32(t.encode())).standard_normal(32) for t in texts]
        vectors = np.array(rows, dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    encode_queries = encode_passages
