"""Sparse encoders (SPLADE and its like): a text as weights of words, most of them zero."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from neurorit.core.errors import BadInput, MissingExtra
from neurorit.retrieval.encoders.fingerprint import fingerprint_encoder
from neurorit.retrieval.encoders.truncation import overlong


class SparseEncoder:
    """A sentence-transformers sparse encoder; its query and document sides are told apart."""

    def __init__(self, name: str, model: Any, *, batch_size: int = 64) -> None:
        self.name = name
        self._model = model
        self._batch_size = batch_size

    @classmethod
    def load(cls, name: str, *, batch_size: int = 64) -> SparseEncoder:
        """That of a folder or hub name.

        Raises BadInput for a place without one, MissingExtra without sentence-transformers.
        """
        try:
            from sentence_transformers import SparseEncoder as Model
        except ModuleNotFoundError as error:
            raise MissingExtra("sentence_transformers", "cpu") from error
        try:
            model = Model(name)
            made = cls(name, model, batch_size=batch_size)
            assert made.dimension > 0
        except Exception as error:  # the library raises many kinds, for a bad name or a bad folder
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BadInput(
                f"‹sparse={name}›: no sparse encoder could be loaded: {reason}"
            ) from error
        return made

    @property
    def dimension(self) -> int:
        """V, the words that may have a weight."""
        return int(self._model.get_embedding_dimension())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what decides the weights: as a dense encoder's, and how it pools."""
        parts: list[Any] = [
            (type(module).__name__, getattr(module, "get_config_dict", dict)())
            for module in self._model
        ]
        told = json.dumps([fingerprint_encoder(self._model), parts], sort_keys=True, default=str)
        return hashlib.sha256(told.encode()).hexdigest()

    def encode_passages(self, texts: Sequence[str]) -> Any:
        """scipy CSR float32 [n, V] of passages."""
        return self._encode(self._model.encode_document, texts)

    def encode_queries(self, texts: Sequence[str]) -> Any:
        """scipy CSR float32 [n, V] of queries."""
        return self._encode(self._model.encode_query, texts)

    def overlong(self, texts: Sequence[str]) -> int | None:
        """How many of the passages are longer than it reads."""
        return overlong(self._model, texts)

    def _encode(self, encode: Any, texts: Sequence[str]) -> Any:
        import numpy as np
        from scipy.sparse import csr_array

        found = encode(
            list(texts), batch_size=self._batch_size, show_progress_bar=False, save_to_cpu=True
        ).coalesce()
        rows, words = found.indices().numpy()
        weights = found.values().float().numpy()
        kept = weights > 0
        shape = (len(texts), self.dimension)
        made = csr_array((weights[kept], (rows[kept], words[kept])), shape=shape, dtype=np.float32)
        made.sort_indices()
        return made
