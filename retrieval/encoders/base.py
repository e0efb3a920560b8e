"""What an encoder is: text to unit vectors, with a fingerprint that tells one from another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np


class Encoder(Protocol):
    """Turns text into vectors of length one, so that inner product is cosine similarity.

    It may have a `description`, a mapping that a manifest keeps for people.
    """

    name: str

    @property
    def dimension(self) -> int:
        """d, the length of a vector's list of numbers."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 over weights and settings: the same only if vectors are the same."""
        ...

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n, d]."""
        ...

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n, d]."""
        ...


def described(encoder: Encoder) -> Mapping[str, Any]:
    """What an encoder says of itself, for the manifest; empty where it says nothing."""
    return dict(getattr(encoder, "description", {}))
