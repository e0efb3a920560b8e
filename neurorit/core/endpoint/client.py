"""Calls of an OpenAI-compatible server: retried with backoff, jitter and Retry-After.

Systems under evaluation, judges, teachers and encoders are asked through it. No redirect is
followed: prompts and keys are for the server that was named.
"""

from __future__ import annotations

import math
import os
import random
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, TypeVar

import httpx

from neurorit.core.endpoint.call_settings import CallSettings
from neurorit.core.endpoint.replies import CallFailed, refusal_text

_RETRIED = frozenset({408, 409, 425, 429})
_LONGEST_PAUSE = 60.0
_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


@lru_cache
def _trusted(*named: str | None) -> ssl.SSLContext:
    """The certificates that are trusted, read once: 30 ms. named: where the environment has them.

    httpx looks there itself.
    """
    return httpx.create_ssl_context()


class Endpoint:
    """The routes below `base_url` (such as `.../v1`) of one server. Threads may share it."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        settings: CallSettings | None = None,
        transport: httpx.BaseTransport | None = None,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        """transport, wait: for tests, in place of the network and of the pauses."""
        self._closed = threading.Event()
        self._wait = wait or self._closed.wait
        self.settings = settings or CallSettings()
        # An address may end in `?api-version=...`: routes go before it.
        path, mark, query = base_url.partition("?")
        self.base_url = path.rstrip("/")
        self._query = mark + query
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=self.settings.timeout,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=256),
            transport=transport,
            verify=_trusted(*map(os.environ.get, ("SSL_CERT_FILE", "SSL_CERT_DIR"))),
        )

    def close(self) -> None:
        """Close all connections; calls that wait for another attempt give up."""
        self._closed.set()
        self._http.close()

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def chat(
        self,
        request: Mapping[str, Any],
        read: Callable[[Any], _Made | None],
    ) -> _Made:
        """`post` to `chat/completions`."""
        return self.post("chat/completions", request, read)

    def post(
        self, route: str, request: Mapping[str, Any], read: Callable[[Any], _Made | None]
    ) -> _Made:
        """What `read` finds in the JSON that a route replies with.

        `read` returns None for a reply that is of no use: it is then asked again, as after a
        timeout, a lost connection, no JSON, 429 or 5xx. Any other 4xx is final, and so is a
        CallFailed of `read`. Raises CallFailed.
        """
        return self._ask("POST", route, dict(request), read)

    def get(self, route: str, read: Callable[[Any], _Made | None]) -> _Made:
        """As `post`, of a route that is only read."""
        return self._ask("GET", route, None, read)

    def _ask(
        self, method: str, route: str, body: Any, read: Callable[[Any], _Made | None]
    ) -> _Made:
        try:
            return self._asked(method, route, body, read)
        finally:
            if self._closed.is_set():
                # What was connecting when all was closed was no connection yet: `close` missed it,
                # and does nothing the second time.
                self._http.__exit__(None, None, None)

    def _asked(
        self, method: str, route: str, body: Any, read: Callable[[Any], _Made | None]
    ) -> _Made:
        url = f"{self.base_url}/{route}{self._query}"
        cause, status = "", None
        for attempt in range(self.settings.retries + 1):
            if self._closed.is_set():
                raise CallFailed(f"{self.base_url}: given up")
            asked_to_wait = 0.0
            try:
                timeout = self.settings.timeout
                reply = self._http.request(method, url, json=body, timeout=timeout)
                if self._closed.is_set() and (stream := reply.extensions.get("network_stream")):
                    stream.close()  # connected since, it is in no pool that could close it
                status = reply.status_code
                if reply.is_success:
                    found = read(reply.json())
                    if found is not None:
                        return found
                    cause = "its replies are of no use"
                else:
                    where = reply.headers.get("location")
                    said = refusal_text(status, reply.content, reply.reason_phrase, where)
                    cause = f"HTTP {status}: {said}"
                    if status < 500 and status not in _RETRIED:
                        break
                    asked_to_wait = retry_after(reply.headers.get("retry-after"))
            except httpx.InvalidURL as error:
                raise CallFailed(f"{self.base_url} is no address: {error}") from error
            except httpx.HTTPError as error:
                cause, status = type(error).__name__, None
            except ValueError:
                cause = "a reply is no JSON"
            if attempt < self.settings.retries:
                pause = self.settings.pause * 2**attempt * random.uniform(0.5, 1.0)
                self._wait(min(_LONGEST_PAUSE, max(asked_to_wait, pause)))
        raise CallFailed(f"{self.base_url}: {cause}", status)


def with_fields(request: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """A request with further fields of the caller's; None (null) leaves a field out.

    `max_completion_tokens` takes the place of `max_tokens`, for servers that refuse both together.
    """
    asked = {**request, **fields}
    if asked.get("max_completion_tokens") is not None:
        asked.pop("max_tokens", None)
    return {name: value for name, value in asked.items() if value is not None}


def retry_after(header: str | None) -> float:
    """Seconds that a Retry-After header asks for, in either form; 0 without a usable one."""
    if not header:
        return 0.0
    try:
        seconds = float(header)
    except ValueError:
        try:
            moment = parsedate_to_datetime(header)
        except ValueError:
            return 0.0
        seconds = (
            (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _now()
        ).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


def in_parallel(
    work: Callable[[_Given], _Made], given: Sequence[_Given], concurrency: int
) -> Iterator[tuple[int, _Made | CallFailed]]:
    """(position, result or why there is none), as calls end; other errors are raised.

    No more than `concurrency` calls are under way; leaving early starts no further one.
    """
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="endpoint")
    running: dict[Future[_Made], int] = {}
    following = iter(range(len(given)))
    try:
        while True:
            while len(running) < concurrency and (i := next(following, None)) is not None:
                running[pool.submit(work, given[i])] = i
            if not running:
                return
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                i = running.pop(future)
                outcome: _Made | CallFailed
                try:
                    outcome = future.result()
                except CallFailed as error:
                    # Its traceback would hold this frame, and with it open connections.
                    outcome = error.with_traceback(None)
                yield i, outcome
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _now() -> datetime:
    return datetime.now(UTC)
