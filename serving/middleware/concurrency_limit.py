"""How many chats are answered at once, how many may wait, and what the others are told.

A server that takes every request gets slow for all of them. Here a chat has a turn, waits for one
in a short queue, or is refused at once with 429 and Retry-After; one that waits too long gets 503.
The turn lasts until the answer's last byte is sent or its client has gone.
"""

from __future__ import annotations

import asyncio
import time

from starlette.types import ASGIApp, Receive, Scope, Send

from neurorit.serving.metrics import Metrics
from neurorit.serving.middleware.auth import refuse
from neurorit.serving.middleware.errors import ApiError

_ANSWERS = ("chat/completions", "completions", "responses", "rag/compare", "retrieve")
ROUTES = frozenset(f"/v1/{route}" for route in _ANSWERS)


class Admission:
    """ASGI middleware: bounds the requests to ROUTES.

    running: answered at once; queue: waiting at most; patience: seconds that one may wait.
    """

    def __init__(
        self, app: ASGIApp, *, running: int, queue: int, patience: float, metrics: Metrics
    ) -> None:
        self._app = app
        self._patience = patience
        self._turns = asyncio.Semaphore(running)
        self._queue = queue
        self._waiting = 0
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in ROUTES:
            await self._app(scope, receive, send)
        elif self._turns.locked() and self._waiting >= self._queue:
            text = "the server answers as many requests as it can; try again shortly"
            await refuse(_overloaded(429, text), scope, receive, send)
        elif not await self._turn_comes():
            text = f"no turn came within {self._patience:.0f} s; try again shortly"
            await refuse(_overloaded(503, text), scope, receive, send)
        else:
            self._metrics.running.inc()
            try:
                await self._app(scope, receive, send)
            finally:
                self._metrics.running.dec()
                self._turns.release()

    async def _turn_comes(self) -> bool:
        """Wait for a turn; False where none comes in time."""
        if not self._turns.locked():  # as nearly always: no clock is set for it
            self._metrics.queue.observe(0.0)
            return await self._turns.acquire()
        started = time.perf_counter()
        self._waiting += 1
        self._metrics.waiting.set(self._waiting)
        try:
            async with asyncio.timeout(self._patience):
                return await self._turns.acquire()
        except TimeoutError:
            return False
        finally:
            self._waiting -= 1
            self._metrics.waiting.set(self._waiting)
            self._metrics.queue.observe(time.perf_counter() - started)


def _overloaded(status: int, text: str) -> ApiError:
    kind = "rate_limit_error" if status == 429 else "server_error"
    return ApiError(status, text, kind=kind, code="overloaded", headers={"Retry-After": "1"})
