"""How many connections the server holds open, and how long a request or its answer may take.

Without these bounds whoever opens connections and sends nothing, or byte by byte, or never reads
what is answered, takes memory, open files and turns until nobody is served.
"""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import Any
from weakref import WeakSet

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from neurorit.serving.metrics import Metrics
from neurorit.serving.middleware.errors import error_body

_PATIENCE = 5.0  # seconds for a refused client to ask, read and leave
# A full server is still looked at: who takes its silence for its end would restart it.
_PROBES = (b"GET /health ", b"GET /ready ", b"GET /metrics ")
_SPARE = 16  # connections for them
MAX_HEAD = 64 * 1024  # bytes of a request's line and headers
# The parser takes what follows an offer of another protocol for that protocol, and no body.
_OFFER = re.compile(rb"(?im)^upgrade(?=[ \t]*:)")


def bounded_connections(
    most: int, seconds: float, metrics: Metrics | None = None
) -> type[HttpToolsProtocol]:
    """uvicorn's HTTP protocol for at most `most` connections; one more is told 503 and closed.

    A few more may ask for `/health`, `/ready` and `/metrics`. seconds: for a whole request to
    arrive, from its first byte or, on a new connection, from its start; a slower one gets 408. As
    long an answer may wait for a client that reads nothing of it; then the connection is cut. A
    head of more than MAX_HEAD bytes gets 431 before anything of it is looked at. An idle
    connection that was used is uvicorn's to close.
    """
    return type(
        "BoundedConnection", (_Bounded,), {"most": most, "seconds": seconds, "metrics": metrics}
    )


class _Bounded(HttpToolsProtocol):
    most: int
    seconds: float
    metrics: Metrics | None
    _refused = False
    _told = False  # the rest of what it sends is dropped
    _timer: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _pending = 0  # bytes that came since the parser last made something of any
    _head = 0  # bytes of the headers that it made
    _in_head = False
    _in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self._cycles: WeakSet[Any] = WeakSet()
        if len(self.connections) < self.most:
            self._take(transport)
            return
        self._refused = True
        # Answered when it asks: many clients take what comes before that for a broken connection.
        self._timer = self.loop.call_later(_PATIENCE, transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._refused and data.startswith(_PROBES) and self._spare():
            self._arrived()
            self._take(self.transport)
        if self._told:
            return
        if self._refused:
            self._turn_away(
                503, "the server holds as many connections as it can; try again shortly"
            )
            return
        self._pending += len(data)
        super().data_received(data if self._in_body else _without_offers(data))
        if self._pending > MAX_HEAD:
            self._too_large()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(self.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read()

    def timeout_keep_alive_handler(self) -> None:
        # Closing waits until all is read, which need not ever be.
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        self._read()
        if self._refused:
            if self.metrics is not None:
                self.metrics.connections_refused.inc()
            return
        # uvicorn tells the request that came last; one before it may be being answered.
        for cycle in self._cycles:
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)
        self._tell_open()

    def _take(self, transport: asyncio.Transport) -> None:
        self._refused = False
        super().connection_made(transport)
        self._timer = self.loop.call_later(self.seconds, self._too_slow)
        self._tell_open()

    def _spare(self) -> bool:
        return not self._told and len(self.connections) < self.most + _SPARE

    def on_message_begin(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.seconds, self._too_slow)
        self._in_head, self._head = True, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._head += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        # What follows a body in chunks is no header, least of all a key.
        if self._in_head:
            self._head += len(name) + len(value)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head, self._in_body, self._pending = False, True, 0
        if self._head > MAX_HEAD:
            self._too_large()
        if not self._told:
            super().on_headers_complete()
            if self.cycle is not None:  # an upgrade has none
                self._cycles.add(self.cycle)

    def on_body(self, body: bytes) -> None:
        self._pending = 0
        if not self._told:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._pending, self._in_body = 0, False
        if not self._told:
            self._arrived()
            super().on_message_complete()

    def _arrived(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _turn_away(self, status: int, text: str) -> None:
        """Tell a client that it is not served; what it still sends is dropped for some seconds."""
        self._told = True
        self._say(status, text)
        self.transport.write_eof()
        self._arrived()
        self._timer = self.loop.call_later(_PATIENCE, self.transport.abort)

    def _too_large(self) -> None:
        if self._told or self.transport.is_closing():
            return
        if self._answering():  # a refusal would stand in the middle of that answer
            self._told = True
            self.transport.abort()
        else:
            self._turn_away(431, f"the request's headers are larger than {MAX_HEAD} bytes")

    def _too_slow(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        answering = self._answering()
        if answering and (not self.cycle.more_body or self.pipeline):
            # It waits behind one that is being answered.
            self._timer = self.loop.call_later(self.seconds, self._too_slow)
            return
        # One that was refused before its body had come has its answer.
        refused = self.cycle is not None and self._in_body and self.cycle.response_complete
        if not refused and (not answering or not self.cycle.response_started):
            self._say(408, f"the request did not arrive whole within {self.seconds:.0f} s")
        self.transport.close()

    def _say(self, status: int, text: str) -> None:
        self.transport.write(_response(status, text))

    def _tell_open(self) -> None:
        if self.metrics is not None:
            self.metrics.connections.set(len(self.connections))


def _without_offers(data: bytes) -> bytes:
    """The beginning of a request with offers of other protocols, such as h2c, made plain headers.

    Declining them is answering as if they were not there.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    return _OFFER.sub(b"x-offer", head) + end + rest if b"pgrade" in head else data


def _response(status: int, text: str) -> bytes:
    kind = "server_error" if status == 503 else "invalid_request_error"
    code = {503: "overloaded", 408: "request_timeout"}.get(status)
    body: bytes = orjson.dumps(error_body(text, kind, code=code))
    phrase = HTTPStatus(status).phrase
    head: list[tuple[str, Any]] = [
        ("Content-Type", "application/json"),
        ("Content-Length", len(body)),
        ("Connection", "close"),
        *([("Retry-After", 1)] if status == 503 else []),
    ]
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in head)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


_OTHERS = 128
_ENOUGH = 2**16


def allow_many() -> int:
    """Raise the process's own limit as far as it may; returns how many connections that leaves."""
    try:
        import resource
    except ImportError:  # not on Windows, which has no such limit
        return _ENOUGH
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (ValueError, OSError):  # macOS has a further limit that cannot be asked for
            pass
    if soft == resource.RLIM_INFINITY:
        return _ENOUGH
    return max(16, min(soft, _ENOUGH) - _OTHERS)
