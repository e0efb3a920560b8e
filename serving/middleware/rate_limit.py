"""How many requests a client may send in a minute; one that sends more is told when to come back.

A client is its key, or its address where no key is asked for.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from neurorit.serving.middleware.auth import CLIENT, refuse
from neurorit.serving.middleware.errors import ApiError

_GUARDED = "/v1/"
_MOST_CLIENTS = 10_000


class RateLimit:
    """ASGI middleware: a token bucket for each client, filled with `per_minute` tokens a minute.

    per_minute: 0 lets everything pass; a client may spend a minute's tokens at once.
    """

    def __init__(
        self, app: ASGIApp, *, per_minute: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._most = float(per_minute)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limited = scope["type"] == "http" and scope["path"].startswith(_GUARDED) and self._most
        wait = self._spend(_client(scope)) if limited else 0.0
        if wait <= 0:
            await self._app(scope, receive, send)
            return
        text = f"more than {self._most:.0f} requests a minute; try again in {math.ceil(wait)} s"
        error = ApiError(
            429,
            text,
            kind="rate_limit_error",
            code="rate_limit_exceeded",
            headers={"Retry-After": str(math.ceil(wait))},
        )
        await refuse(error, scope, receive, send)

    def _spend(self, client: str) -> float:
        """Take a token; the seconds until there is one, when there is none."""
        now = self._clock()
        tokens, since = self._buckets.pop(client, (self._most, now))
        tokens = min(self._most, tokens + (now - since) * self._most / 60)
        spent = tokens >= 1
        self._buckets[client] = (tokens - 1 if spent else tokens, now)
        if len(self._buckets) > _MOST_CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if spent else (1 - tokens) * 60 / self._most


def _client(scope: Scope) -> str:
    # The header itself says nothing: a client can write it in many ways, or invent one.
    return str(scope.get(CLIENT) or (scope.get("client") or ("",))[0])
