"""How many chats are answered at once, how many may wait, and what the others are told.

A server that takes every request gets slow for all of them. Here a chat has a turn, waits for one
in a short queue, or is refused at once with 429 and Retry-After. The turn lasts until the answer's
last byte is sent or its client has gone. It knows nothing of what is asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.metrics import Metrics
from serving.protocol import error_body

ROUTES = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/rag/compare", "/v1/retrieve"})


class Admission:
    """ASGI middleware: bounds the requests to ROUTES, counts and times every request.

    running: answered at once; queue: waiting at most.
    """

    def __init__(self, app: ASGIApp, *, running: int, queue: int, metrics: Metrics) -> None:
        self._app = app
        self._turns = asyncio.Semaphore(running)
        self._queue = queue
        self._waiting = 0
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in ROUTES else "other"
        status = 499  # the client left before an answer began

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        started = time.perf_counter()
        try:
            if route == "other":
                await self._app(scope, receive, noting)
            elif self._turns.locked() and self._waiting >= self._queue:
                await _busy()(scope, receive, noting)
            else:
                async with self._turn():
                    await self._app(scope, receive, noting)
        finally:
            self._metrics.requests.labels(route, str(status)).inc()
            if route != "other" and status == 200:
                self._metrics.total.observe(time.perf_counter() - started)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        started = time.perf_counter()
        self._waiting += 1
        self._metrics.waiting.set(self._waiting)
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
            self._metrics.waiting.set(self._waiting)
        self._metrics.queue.observe(time.perf_counter() - started)
        self._metrics.running.inc()
        try:
            yield
        finally:
            self._metrics.running.dec()
            self._turns.release()


def _busy() -> JSONResponse:
    text = "the server answers as many requests as it can; try again shortly"
    body = error_body(text, "rate_limit_error", code="overloaded")
    return JSONResponse(body, 429, {"Retry-After": "1"})
