"""An asynchronous client of vLLM's `/v1/completions` with prompts as token ids.

Token ids, not text: what the pipeline rendered is exactly what the model reads. It knows nothing
of retrieval, and works with any server that takes token-id prompts.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from retrieval.errors import NeuroritError


class UpstreamError(NeuroritError):
    """The language model's server cannot be reached, or answered with an error.

    status: the HTTP status a gateway should answer with (503: try again, 502: it is broken,
    400: the request itself was refused).
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Piece:
    """A part of a completion as it arrives; the last one has the `finish_reason`.

    tokens: of the whole completion, where the server counted them.
    """

    text: str
    finish_reason: str | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class Sampling:
    """How to write: at most max_tokens tokens; temperature 0 is greedy; stop: strings that end."""

    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def as_request(self) -> dict[str, Any]:
        """The fields of an OpenAI request."""
        fields: dict[str, Any] = {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
        }
        if self.seed is not None:
            fields["seed"] = self.seed
        if self.stop:
            fields["stop"] = list(self.stop)
        return fields


class CompletionClient:
    """Completions of one model; close it with `aclose` or use it as an async context manager.

    base_url: without `/v1`; timeout: seconds without a byte before a request counts as lost.
    """

    def __init__(self, base_url: str, api_key: str, model: str, *, timeout: float = 120.0) -> None:
        self.model = model
        self._url = f"{base_url.rstrip('/')}/v1/completions"
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=timeout)
        self._opened: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> CompletionClient:
        return self

    async def __aexit__(self, *details: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        if self._opened is not None:
            await self._opened.close()
            self._opened = None

    async def complete(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling | None = None,
        *,
        stop_token_ids: Sequence[int] = (),
    ) -> Piece:
        """The whole completion. Raises UpstreamError."""
        body = self._body(prompt_ids, sampling, stop_token_ids)
        try:
            async with self._post(body) as response:
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unreachable(error) from error
        if response.status != 200:
            raise _refused(response, content)
        return _piece(content)

    async def stream(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling | None = None,
        *,
        stop_token_ids: Sequence[int] = (),
        whole: bool = False,
    ) -> AsyncGenerator[Piece, None]:
        """Pieces as they are written; leaving the iterator early aborts the request upstream.

        whole: one piece with everything, which costs both servers less. Raises UpstreamError.
        """
        if whole:
            yield await self.complete(prompt_ids, sampling, stop_token_ids=stop_token_ids)
            return
        body = self._body(prompt_ids, sampling, stop_token_ids) | {"stream": True}
        ended = False
        try:
            async with self._post(body) as response:
                if response.status != 200:
                    raise _refused(response, await response.read())
                async for line in _lines(response):
                    data = line.removeprefix(b"data:").strip()
                    if not line.startswith(b"data:") or not data:
                        continue
                    if data == b"[DONE]":
                        ended = True
                        break
                    yield _piece(data)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unreachable(error) from error
        if not ended:
            raise UpstreamError("the language model broke off in the middle of an answer", 502)

    def _post(self, body: dict[str, Any]) -> Any:
        return self._session().post(self._url, data=orjson.dumps(body))

    def _session(self) -> aiohttp.ClientSession:
        """The connections, which belong to the event loop that first asks for them."""
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                # As many connections as there are requests: the gateway itself counts those.
                connector=aiohttp.TCPConnector(limit=0),
                headers=self._headers,
                timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                # The upstream is named by the operator: a proxy of the environment is not asked.
                trust_env=False,
            )
        return self._opened

    def _body(
        self, prompt_ids: Sequence[int], sampling: Sampling | None, stop_token_ids: Sequence[int]
    ) -> dict[str, Any]:
        return {
            "model": self.model,
            "prompt": list(prompt_ids),
            "stop_token_ids": list(stop_token_ids),
            **(sampling or Sampling()).as_request(),
        }


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Lines of any length as they come; what stands after the last line's end is none."""
    held = b""
    async for part in response.content.iter_any():
        *whole, held = (held + part).split(b"\n")
        for line in whole:
            yield line


def _unreachable(error: Exception) -> UpstreamError:
    broken = (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError)
    reset = isinstance(error, aiohttp.ClientOSError)
    if isinstance(error, broken) or (reset and not isinstance(error, aiohttp.ClientConnectorError)):
        return UpstreamError("the language model broke off in the middle of an answer", 503)
    return UpstreamError(f"the language model cannot be reached ({type(error).__name__})", 503)


def _piece(data: str | bytes) -> Piece:
    try:
        record = orjson.loads(data)
        if "error" in record:
            raise UpstreamError(f"the language model failed: {_message(record)}", 502)
        choice = record["choices"][0]
        tokens = (record.get("usage") or {}).get("completion_tokens")
        return Piece(choice.get("text") or "", choice.get("finish_reason"), tokens)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise UpstreamError("the language model sent something unreadable", 502) from error


def _refused(response: aiohttp.ClientResponse, content: bytes) -> UpstreamError:
    try:
        message = _message(orjson.loads(content))
    except ValueError:
        message = response.reason or ""
    if response.status in (400, 413, 422):
        return UpstreamError(f"the language model refused the request: {message}", 400)
    status = 503 if response.status in (429, 503) else 502
    return UpstreamError(f"the language model answered {response.status}: {message}", status)


def _message(record: Any) -> str:
    error = record.get("error", record) if isinstance(record, dict) else record
    text = error.get("message", error) if isinstance(error, dict) else error
    return " ".join(str(text).split())[:300]
