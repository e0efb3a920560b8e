"""An asynchronous client of vLLM's `/v1/completions` with prompts as token ids.

Token ids, not text: what the pipeline rendered is exactly what the model reads. Servers that take
only messages are asked for a chat.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Protocol

import aiohttp
import orjson

from neurorit.core.endpoint.replies import CallFailed, Piece, read_cards, read_piece, refusal_text
from neurorit.core.errors import BadInput

_TRIES = 3
_AT_ONCE = 0.5  # seconds in which a connection that was closed before tells so
_OF_LOOKS = aiohttp.ClientTimeout(total=5.0)


@dataclass(frozen=True)
class Sampling:
    """How to write: at most max_tokens tokens; temperature 0 is greedy; stop: strings that end.

    The rest is OpenAI's: logit_bias as (token id, bias); response_format as its JSON object.
    adapter: the server's name of an adapter of its model that is to write; of_vllm: fields of
    vLLM's own; template: what the chat template is told beside the chat.
    """

    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[str, float], ...] = ()
    response_format: Mapping[str, Any] | None = None
    adapter: str = ""
    of_vllm: Mapping[str, Any] = field(default_factory=dict)
    template: tuple[tuple[str, Any], ...] = ()

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
        if self.frequency_penalty:
            fields["frequency_penalty"] = self.frequency_penalty
        if self.presence_penalty:
            fields["presence_penalty"] = self.presence_penalty
        if self.logit_bias:
            fields["logit_bias"] = dict(self.logit_bias)
        if self.response_format is not None:
            fields["response_format"] = dict(self.response_format)
        fields |= self.of_vllm
        if self.adapter:
            fields["model"] = self.adapter
        return fields


@dataclass(frozen=True)
class Card:
    """What a server says of its model: its name, its context in tokens, and who owns it."""

    model: str
    context: int | None = None
    owner: str = ""


class CompletionClient:
    """Completions of one model; close it with `aclose` or use it as an async context manager.

    base_url: without `/v1`, may be set anew; model: empty for the first that the server lists when
    it is looked at; timeout: seconds without a byte before a stream counts as lost; whole_timeout:
    seconds that a whole answer may take, of which no byte comes before its last word;
    connect_timeout: seconds until a server that does not take a connection counts as unreachable.
    """

    _path = "/v1/completions"

    def __init__(
        self,
        base_url: str,
        api_key: str,
        model: str,
        *,
        timeout: float = 120.0,
        whole_timeout: float = 900.0,
        connect_timeout: float = 5.0,
    ) -> None:
        self.model = model
        self.base_url = base_url.rstrip("/")
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._of_streams = aiohttp.ClientTimeout(
            total=None, sock_connect=connect_timeout, sock_read=timeout
        )
        self._of_answers = aiohttp.ClientTimeout(total=whole_timeout, sock_connect=connect_timeout)
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
        messages: Sequence[Mapping[str, str]] = (),
    ) -> Piece:
        """The whole completion. Raises CallFailed."""
        body = self._body(prompt_ids, sampling, stop_token_ids, messages)
        try:
            async with self._post(body, self._of_answers) as response:
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
        messages: Sequence[Mapping[str, str]] = (),
    ) -> AsyncGenerator[Piece, None]:
        """Pieces as they are written; leaving the iterator early aborts the request upstream.

        whole: one piece with everything, which costs both servers less; messages: the prompt again
        as a chat, for servers that take nothing else. Raises CallFailed.
        """
        if whole:
            yield await self.complete(
                prompt_ids, sampling, stop_token_ids=stop_token_ids, messages=messages
            )
            return
        body = self._body(prompt_ids, sampling, stop_token_ids, messages)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        ended = False
        try:
            async with self._post(body, self._of_streams) as response:
                if response.status != 200:
                    raise _refused(response, await response.read())
                async for line in _lines(response):
                    data = line.removeprefix(b"data:").strip()
                    if not line.startswith(b"data:") or not data:
                        continue
                    if data == b"[DONE]":
                        ended = True
                        break
                    yield _piece(data, streamed=True)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unreachable(error) from error
        if not ended:
            raise CallFailed("the language model broke off in the middle of an answer", 200)

    async def look(self) -> Card:
        """What the server says of itself.

        Raises CallFailed when it does not answer, BadInput when it refuses the key.
        """
        url = f"{self.base_url}/v1/models"
        try:
            async with self._session().get(
                url, timeout=_OF_LOOKS, allow_redirects=False
            ) as response:
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unreachable(error) from error
        if response.status in (401, 403):
            raise BadInput(
                f"{self.base_url} refuses the key ({response.status}); "
                "give it with ‹upstream_key_file› or NEURORIT_UPSTREAM_KEY, a base's "
                "with NEURORIT_BASE_KEY"
            )
        if response.status != 200:
            raise _refused(response, content)
        return _card(content, self.model)

    async def command(self, path: str, body: Mapping[str, Any]) -> None:
        """Send what changes the server itself, such as an adapter to load. Raises CallFailed."""
        try:
            async with self._session().post(
                self.base_url + path,
                data=orjson.dumps(body),
                timeout=self._of_answers,
                allow_redirects=False,
            ) as response:
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unreachable(error) from error
        if response.status != 200:
            raise _refused(response, content)

    @contextlib.asynccontextmanager
    async def _post(
        self, body: dict[str, Any], timeout: aiohttp.ClientTimeout
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """The response to a request, from its first byte on.

        A kept connection may be closed by the server at the moment it is used again: nothing was
        computed then, and the request is sent anew. One that breaks off later may have cost the
        server its work, and is not asked for that again.
        """
        url, data = self.base_url + self._path, orjson.dumps(body)
        for tries_left in reversed(range(_TRIES)):
            connection, sent = SimpleNamespace(kept=False), time.monotonic()
            try:
                response = await self._session().post(
                    url,
                    data=data,
                    timeout=timeout,
                    allow_redirects=False,
                    trace_request_ctx=connection,
                )
                break
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                late = time.monotonic() - sent > _AT_ONCE
                if not connection.kept or not tries_left or late:
                    raise
                # The loop hears now which other kept connections have closed.
                await asyncio.sleep(0)
        async with response:
            yield response

    def _session(self) -> aiohttp.ClientSession:
        """The connections, which belong to the event loop that first asks for them."""
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                # As many connections as there are requests: the gateway itself counts those.
                # vLLM closes one that is idle for 5 s: it must not be asked on at that moment.
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0),
                trace_configs=[_told_of_kept_connections()],
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                # The upstream is named by the operator: a proxy of the environment is not asked.
                trust_env=False,
            )
        return self._opened

    def _body(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling | None,
        stop_token_ids: Sequence[int],
        messages: Sequence[Mapping[str, str]],
    ) -> dict[str, Any]:
        return {
            "model": self.model,
            "prompt": list(prompt_ids),
            "stop_token_ids": list(stop_token_ids),
            **(sampling or Sampling()).as_request(),
        }


class ChatClient(CompletionClient):
    """The same of a server's `/v1/chat/completions`, for servers that take messages only.

    Whether text in a message can become a special token is then that server's affair.
    """

    _path = "/v1/chat/completions"

    def _body(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling | None,
        stop_token_ids: Sequence[int],
        messages: Sequence[Mapping[str, str]],
    ) -> dict[str, Any]:
        sampling = sampling or Sampling()
        body = {"model": self.model, "messages": list(messages), **sampling.as_request()}
        if sampling.template:  # the template is that server's
            body["chat_template_kwargs"] = dict(sampling.template)
        return body


def _told_of_kept_connections() -> aiohttp.TraceConfig:
    async def kept(session: Any, context: SimpleNamespace, parameters: Any) -> None:
        if context.trace_request_ctx is not None:
            context.trace_request_ctx.kept = True

    config = aiohttp.TraceConfig()
    config.on_connection_reuseconn.append(kept)
    return config


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Lines of any length as they come; one without its end is broken off, but for `[DONE]`."""
    held = b""
    async for part in response.content.iter_any():
        *whole, held = (held + part).split(b"\n")
        for line in whole:
            yield line
    if held.removeprefix(b"data:").strip() == b"[DONE]":
        yield held


def _piece(data: bytes, *, streamed: bool = False) -> Piece:
    try:
        return read_piece(orjson.loads(data), streamed=streamed)
    except CallFailed as error:
        raise CallFailed(f"the language model failed: {error}", 200) from error
    except ValueError as error:
        raise CallFailed("the language model sent something unreadable", 200) from error


def _unreachable(error: Exception) -> CallFailed:
    broken = (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError)
    reset = isinstance(error, aiohttp.ClientOSError)
    if isinstance(error, broken) or (reset and not isinstance(error, aiohttp.ClientConnectorError)):
        return CallFailed("the language model broke off in the middle of an answer")
    return CallFailed(f"the language model cannot be reached ({type(error).__name__})")


def _card(content: bytes, model: str) -> Card:
    """The card of the named model, or of the first one."""
    try:
        cards = read_cards(orjson.loads(content))
        found = next((card for card in cards if card["id"] == model), cards[0])
        context = found.get("max_model_len")
        owner = str(found.get("owned_by") or "")
        return Card(str(found["id"]), int(context) if context else None, owner)
    except (ValueError, IndexError, TypeError) as error:
        raise CallFailed("it does not list its model", 200) from error


def _refused(response: aiohttp.ClientResponse, content: bytes) -> CallFailed:
    where = response.headers.get("location")
    said = refusal_text(response.status, content, response.reason or "", where)
    failure = CallFailed(f"the language model answered {response.status}: {said}", response.status)
    if failure.of_this_request:
        return CallFailed(f"the language model refused the request: {said}", response.status)
    return failure


class Generator(Protocol):
    """What the pipeline asks of a language model; `CompletionClient` is one."""

    def stream(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling | None = None,
        *,
        stop_token_ids: Sequence[int] = (),
        whole: bool = False,
        messages: Sequence[Mapping[str, str]] = (),
    ) -> AsyncGenerator[Piece, None]: ...
