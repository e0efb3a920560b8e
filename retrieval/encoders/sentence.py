"""Encoders that sentence-transformers runs in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from neurorit.retrieval.encoders.fingerprint import describe_model, fingerprint_encoder
from neurorit.retrieval.encoders.truncation import overlong

if TYPE_CHECKING:
    import numpy as np


class SentenceEncoder:
    """A sentence-transformers model; its own query and document prompts are used, where it has."""

    def __init__(self, name: str, model: Any, *, batch_size: int = 64) -> None:
        self.name = name
        self._model = model
        self._batch_size = batch_size

    @property
    def dimension(self) -> int:
        """d."""
        return int(self._model.get_embedding_dimension())

    @property
    def has_prompts(self) -> bool:
        """True where the model puts words of its own before queries or passages."""
        return any((self._model.prompts or {}).values())

    @property
    def description(self) -> Mapping[str, Any]:
        """How it pools, how long a text may be, which prompts it puts before."""
        return describe_model(self._model)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights, pooling, length limit, prompts and tokenizer."""
        return fingerprint_encoder(self._model)

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n, d] unit vectors of passages."""
        return self._encode(self._model.encode_document, texts)

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n, d] unit vectors of queries."""
        return self._encode(self._model.encode_query, texts)

    def overlong(self, texts: Sequence[str]) -> int | None:
        """How many of the passages are longer than it reads."""
        return overlong(self._model, texts)

    def _encode(self, encode: Any, texts: Sequence[str]) -> np.ndarray:
        import numpy as np

        vectors = encode(
            list(texts),
            batch_size=self._batch_size,
            normalize_embeddings=True,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return np.ascontiguousarray(vectors, dtype=np.float32)
