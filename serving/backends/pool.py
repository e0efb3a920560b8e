"""Several servers of one model as one: the least busy one answers, a broken one is passed over.

They are looked at in the background, so that a request is not what finds out that one is gone.

Only servers that are named here are ever asked.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import httpx

from neurorit.core.endpoint.replies import CallFailed, Piece
from neurorit.core.errors import BadInput, NeuroritError
from neurorit.serving.backends.openai_client import CompletionClient, Sampling

KEY_VARIABLE = "NEURORIT_UPSTREAM_KEY"
_REST_SECONDS = 5.0
_SILENT_SECONDS = 30.0
_GONE_SECONDS = 1.0


@dataclass
class _Server:
    client: CompletionClient
    running: int = 0
    resting_until: float = 0.0
    context: int | None = None
    fault: NeuroritError | None = None
    owner: str | None = None
    heard: float = -math.inf


class Upstreams:
    """A generator over several clients of the same model.

    A server that cannot be reached is left alone for some seconds, and its request goes to the
    next one, as long as no word of the answer has been passed on.
    """

    def __init__(
        self, clients: Sequence[CompletionClient], *, rest_seconds: float = _REST_SECONDS
    ) -> None:
        if not clients:
            raise BadInput("‹upstream›: name at least one server")
        self._servers = [_Server(client) for client in clients]
        self._rest = rest_seconds

    async def stream(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling | None = None,
        *,
        stop_token_ids: Sequence[int] = (),
        whole: bool = False,
        messages: Sequence[Mapping[str, str]] = (),
    ) -> AsyncGenerator[Piece, None]:
        """As `CompletionClient.stream`; raises CallFailed when no server answers."""
        tried: list[_Server] = []
        failure: CallFailed | None = None
        while server := self._best(tried):
            tried.append(server)
            begun = False
            server.running += 1
            try:
                pieces = server.client.stream(
                    prompt_ids,
                    sampling,
                    stop_token_ids=stop_token_ids,
                    whole=whole,
                    messages=messages,
                )
                async with aclosing(pieces):
                    if (first := await self._first_piece(server, pieces, tried)) is not None:
                        begun = True
                        yield first
                    async for piece in pieces:
                        server.heard = time.monotonic()
                        yield piece
                return
            except CallFailed as error:
                if error.of_this_request:
                    raise
                # Also one that broke off: as the least busy it would draw all requests.
                server.resting_until = time.monotonic() + self._rest
                if begun:
                    raise
                failure = error
            finally:
                server.running -= 1
        assert failure is not None
        raise failure

    async def _first_piece(
        self, server: _Server, pieces: AsyncGenerator[Piece, None], tried: Sequence[_Server]
    ) -> Piece | None:
        """What a server says first; raises CallFailed once it is known to be gone.

        A server that takes requests and answers nothing would keep them as long as it may be
        silent. The looks from the background tell: then they go to another, where there is one.
        """
        first = asyncio.ensure_future(anext(pieces, None))
        try:
            while not first.done():
                await asyncio.wait((first,), timeout=_GONE_SECONDS)
                other = self._best(tried)
                if server.fault is not None and not first.done() and _sound(other):
                    raise CallFailed("the language model does not answer")
            server.heard = time.monotonic()
            return first.result()
        finally:
            if not first.done():
                first.cancel()
                await asyncio.wait((first,))

    async def look(self) -> list[NeuroritError]:
        """Ask every server for its model; what is wrong with those that do not say.

        A server with a fault is asked only where there is no other.
        """
        await asyncio.gather(*(_look(server) for server in self._servers))
        names = [server.client.model for server in self._servers if server.client.model]
        for server in self._servers:
            # One that has been down ever since has the others' model.
            server.client.model = server.client.model or (names[0] if names else "")
        return [server.fault for server in self._servers if server.fault is not None]

    @property
    def reachable(self) -> bool:
        """Whether any server answered when it was last looked at."""
        return any(server.fault is None for server in self._servers)

    @property
    def context(self) -> int | None:
        """Tokens of prompt and answer that every server takes; None where none tells."""
        told = [server.context for server in self._servers if server.context is not None]
        return min(told, default=None)

    @property
    def of_vllm(self) -> bool:
        """Whether every server that has said who made it is vLLM, and one has."""
        told = {server.owner for server in self._servers if server.owner is not None}
        return told == {"vllm"}

    async def aclose(self) -> None:
        """Close all connections."""
        for server in self._servers:
            await server.client.aclose()

    def _best(self, tried: Sequence[_Server]) -> _Server | None:
        """The least busy server that is not resting; a resting one where there is no other."""
        left = [server for server in self._servers if not any(server is t for t in tried)]
        now = time.monotonic()
        return min(
            left,
            key=lambda s: (s.fault is not None, s.resting_until > now, s.running),
            default=None,
        )


def _sound(server: _Server | None) -> bool:
    return server is not None and server.fault is None


async def _look(server: _Server) -> None:
    try:
        card = await server.client.look()
    except NeuroritError as error:
        # One that is busy answers late: it is only gone when nothing at all comes from it.
        slow = isinstance(error.__cause__, TimeoutError)
        if not slow or time.monotonic() - server.heard > _SILENT_SECONDS:
            server.fault = error
        return
    server.fault, server.context, server.heard = None, card.context, time.monotonic()
    server.owner = card.owner
    server.client.model = server.client.model or card.model


def read_upstream_key(path: Path | None) -> str:
    """The upstreams' key: a file's first line, else NEURORIT_UPSTREAM_KEY, else none ("")."""
    if path is None:
        return os.environ.get(KEY_VARIABLE, "").strip()
    if not Path(path).is_file():
        raise BadInput(f"‹upstream_key_file={path}›: no such file")
    lines = Path(path).read_text(encoding="utf-8").split()
    if not lines:
        raise BadInput(f"‹upstream_key_file={path}›: holds no key")
    return lines[0]


def check_url(url: str, parameter: str) -> str:
    """The address without a trailing `/v1`; raises BadInput, naming the parameter, for others."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise BadInput(f"‹{parameter}={url}›: not an address ({error})") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise BadInput(f"‹{parameter}={url}›: an address such as http://gpu-1:8000 is wanted")
    if parsed.userinfo or parsed.query:
        raise BadInput(f"‹{parameter}›: keep keys out of the address; use ‹upstream_key_file›")
    return url.rstrip("/").removesuffix("/v1")
