"""An encoder behind an OpenAI-compatible `/v1/embeddings`: a served model, or a provider's.

Texts go there in batches, several at once, and are asked for again after failures. One that the
server refuses for its length is cut until it takes it, and counted.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from neurorit.core.endpoint.call_settings import CallSettings
from neurorit.core.endpoint.client import Endpoint, in_parallel, with_fields
from neurorit.core.endpoint.replies import CallFailed
from neurorit.core.errors import BadInput, NeuroritError

if TYPE_CHECKING:
    import httpx
    import numpy as np

KEY_VARIABLE = "NEURORIT_ENCODER_KEY"
ADDRESS_VARIABLE = "NEURORIT_ENCODER_ADDRESS"
_SHORTEST = 256  # characters below which no refusal is about the length
_CALLS = CallSettings(timeout=120.0, retries=5, pause=0.5, concurrency=4)
# Where somebody waits for one query, and others behind it.
_OF_QUERIES = CallSettings(timeout=5.0, retries=1, pause=0.2, concurrency=4)


def is_address(name: str) -> bool:
    """True for an encoder that is an address and not a model's name or folder."""
    return name.startswith(("http://", "https://"))


def at_named_address(name: str, where: object) -> str:
    """The encoder of an index, at the address in NEURORIT_ENCODER_ADDRESS if it has one.

    A manifest comes with its index, from whoever made that: an address in it gets no question and
    no key. name: as the manifest has it; where: the index. Raises BadInput without the variable.
    """
    if not is_address(name):
        return name
    told, _, model = name.partition("#")
    address = os.environ.get(ADDRESS_VARIABLE, "").strip()
    if not address:
        raise BadInput(
            f"{where} asks for an encoder at {told}, which would be sent every question and the "
            f"key: name the address that you trust, such as {ADDRESS_VARIABLE}={told}"
        )
    if not is_address(address) or "#" in address:
        raise BadInput(f"{ADDRESS_VARIABLE}: {address!r} is no address such as {told}")
    return f"{address}#{model}"


class EndpointEncoder:
    """`ADDRESS#MODEL`, such as `http://127.0.0.1:8000/v1#e5`; a key is in NEURORIT_ENCODER_KEY.

    Raises BadInput for a name of another form or a server that does not answer. A server may serve
    other weights under the same name one day: that cannot be told from here. truncated: texts that
    were cut so far, since they were longer than the server takes. request: further fields of every
    request; None leaves one out.
    """

    def __init__(
        self,
        name: str,
        *,
        batch_size: int = 64,
        request: Mapping[str, Any] | None = None,
        settings: CallSettings = _CALLS,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        address, _, self._model = name.partition("#")
        if not self._model:
            raise BadInput(f"‹encoder={name}›: name the model after the address: {address}#MODEL")
        self.name = name
        self._batch_size = batch_size
        self._fields = dict(request or {})
        self.truncated = 0
        self._counting = threading.Lock()
        key = os.environ.get(KEY_VARIABLE)
        self._endpoint = Endpoint(address, api_key=key, settings=settings, transport=transport)
        try:
            self._dimension = int(self._batch(["dimension"]).shape[1])
        except CallFailed as error:
            raise BadInput(f"‹encoder={name}›: {error}") from error

    def hurry(self) -> None:
        """Give each call some seconds alone, for searches that somebody waits for."""
        self._endpoint.settings = _OF_QUERIES

    @property
    def dimension(self) -> int:
        """d."""
        return self._dimension

    @property
    def description(self) -> Mapping[str, Any]:
        """The model's name at its server."""
        more = {"request": self._fields} if self._fields else {}
        return {"served_model": self._model, "normalized": True, **more}

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the model's name, d and further fields; the address may change."""
        told = f"endpoint {self._model} {self._dimension}"
        if self._fields:
            told += f" {json.dumps(self._fields, sort_keys=True)}"
        return hashlib.sha256(told.encode()).hexdigest()

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n, d] unit vectors of passages. Raises NeuroritError when the server fails."""
        return self._encode(texts)

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n, d] unit vectors of queries.

        Raises BadInput for one that the server refuses, NeuroritError when the server fails.
        """
        try:
            return self._encode(texts)
        except BadInput as error:
            # The text and the server's words on it are for no log of this side.
            raise BadInput("the encoder refuses to read a query") from error.__cause__

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        import numpy as np

        starts = range(0, len(texts), self._batch_size)
        batches = [list(texts[start : start + self._batch_size]) for start in starts]
        made = np.zeros((len(texts), self._dimension), dtype=np.float32)
        for number, found in in_parallel(
            self._fitting, batches, self._endpoint.settings.concurrency
        ):
            if isinstance(found, CallFailed):
                if found.of_this_request:
                    raise BadInput(f"the encoder {self.name} failed: {found}") from found
                raise NeuroritError(f"the encoder {self.name} failed: {found}; run the same again")
            if found.shape[1] != self._dimension:
                raise NeuroritError(
                    f"the encoder {self.name} gave vectors of {found.shape[1]} numbers, "
                    f"{self._dimension} before"
                )
            made[starts[number] : starts[number] + len(found)] = found
        return made

    def _fitting(self, texts: list[str]) -> Any:
        """The vectors of a batch; of a text that is refused for its length, those of its beginning.

        Raises CallFailed, with the beginning of the text, for one that is refused though short.
        """
        import numpy as np

        try:
            return self._batch(texts)
        except CallFailed as error:
            if not error.of_this_request:
                raise
            if len(texts) > 1:
                half = len(texts) // 2
                return np.concatenate([self._fitting(texts[:half]), self._fitting(texts[half:])])
            return self._cut(texts[0], error)

    def _cut(self, text: str, error: CallFailed) -> Any:
        size = len(text)
        while size > _SHORTEST:
            size = max(_SHORTEST, size // 2)
            try:
                found = self._batch([text[:size]])
            except CallFailed as again:
                if not again.of_this_request:
                    raise
                error = again
                continue
            with self._counting:
                self.truncated += 1
            return found
        raise CallFailed(f"{error}; refused was {text[:60]!r}", error.status) from error

    def _batch(self, texts: list[str]) -> Any:
        request = {"model": self._model, "input": texts, "encoding_format": "float"}
        asked = with_fields(request, self._fields)
        return self._endpoint.post("embeddings", asked, _reader(len(texts)))


def _reader(count: int) -> Callable[[Any], Any]:
    """Reads `count` vectors as float32 [count, d] of length one; None for what is none."""
    import numpy as np

    def read(reply: Any) -> Any:
        try:
            records = sorted(reply["data"], key=lambda one: one["index"])
            vectors = np.array([one["embedding"] for one in records], dtype=np.float32)
        except (KeyError, TypeError, ValueError):
            return None
        if vectors.ndim != 2 or len(vectors) != count or not np.isfinite(vectors).all():
            return None
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / lengths if (lengths > 0).all() else None

    return read
