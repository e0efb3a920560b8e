"""Several servers of one model as one: the least busy one answers, a broken one is passed over.

Only servers that are named here are ever asked. It knows nothing of prompts or HTTP routes.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import httpx

from retrieval.errors import BadInput, NeuroritError
from serving.client import CompletionClient, Piece, Sampling, UpstreamError

KEY_VARIABLE = "NEURORIT_UPSTREAM_KEY"
_REST_SECONDS = 5.0


@dataclass
class _Server:
    client: CompletionClient
    running: int = 0
    resting_until: float = 0.0


class Upstreams:
    """A generator over several clients of the same model.

    A server that cannot be reached is left alone for some seconds, and its request goes to the
    next one, as long as no word of the answer has been passed on.
    """

    def __init__(
        self, clients: Sequence[CompletionClient], *, rest_seconds: float = _REST_SECONDS
    ) -> None:
        if not clients:
            raise BadInput("--upstream: name at least one server")
        self._servers = [_Server(client) for client in clients]
        self._rest = rest_seconds

    async def stream(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling | None = None,
        *,
        stop_token_ids: Sequence[int] = (),
        whole: bool = False,
    ) -> AsyncGenerator[Piece, None]:
        """As `CompletionClient.stream`; raises UpstreamError when no server answers."""
        tried: list[_Server] = []
        failure: UpstreamError | None = None
        while server := self._best(tried):
            tried.append(server)
            begun = False
            server.running += 1
            try:
                pieces = server.client.stream(
                    prompt_ids, sampling, stop_token_ids=stop_token_ids, whole=whole
                )
                async with aclosing(pieces):
                    async for piece in pieces:
                        begun = True
                        yield piece
                return
            except UpstreamError as error:
                if begun or error.status == 400:
                    raise
                failure = error
                server.resting_until = time.monotonic() + self._rest
            finally:
                server.running -= 1
        assert failure is not None
        raise failure

    async def aclose(self) -> None:
        """Close all connections."""
        for server in self._servers:
            await server.client.aclose()

    def _best(self, tried: Sequence[_Server]) -> _Server | None:
        """The least busy server that is not resting; a resting one where there is no other."""
        left = [server for server in self._servers if not any(server is t for t in tried)]
        now = time.monotonic()
        return min(left, key=lambda s: (s.resting_until > now, s.running), default=None)


def read_upstream_key(path: Path | None) -> str:
    """The upstreams' key: a file's first line, else NEURORIT_UPSTREAM_KEY, else none ("")."""
    if path is None:
        return os.environ.get(KEY_VARIABLE, "").strip()
    if not Path(path).is_file():
        raise BadInput(f"--upstream-key-file {path}: no such file")
    lines = Path(path).read_text(encoding="utf-8").split()
    if not lines:
        raise BadInput(f"--upstream-key-file {path}: holds no key")
    return lines[0]


def check_url(url: str, option: str) -> str:
    """The address without a trailing `/v1`; raises BadInput naming the option for another form."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise BadInput(f"{option} {url!r}: not an address ({error})") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise BadInput(f"{option} {url!r}: an address such as http://gpu-1:8000 is wanted")
    if parsed.userinfo or parsed.query:
        raise BadInput(f"{option}: keep keys out of the address; use --upstream-key-file")
    return url.rstrip("/").removesuffix("/v1")


def model_of(url: str, key: str) -> str:
    """The first model that a server lists. Raises NeuroritError when it does not say."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        response = httpx.get(f"{url}/v1/models", headers=headers, timeout=10.0, trust_env=False)
        response.raise_for_status()
        return str(response.json()["data"][0]["id"])
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
        reason = getattr(getattr(error, "response", None), "status_code", type(error).__name__)
        raise NeuroritError(f"--upstream {url}: it does not list its model ({reason})") from error
