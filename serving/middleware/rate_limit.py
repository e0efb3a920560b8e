"""How many requests a client may send in a minute; one that sends more is told when to come back.

A client is its key, or its address where no key is asked for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from neurorit.serving.middleware.auth import CLIENT, refuse
from neurorit.serving.middleware.errors import ApiError
from neurorit.serving.middleware.token_buckets import TokenBuckets

_GUARDED = "/v1/"


class RateLimit:
    """ASGI middleware: a token bucket for each client, filled with `per_minute` tokens a minute.

    per_minute: 0 lets everything pass; a client may spend a minute's tokens at once.
    """

    def __init__(
        self, app: ASGIApp, *, per_minute: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._most = per_minute
        self._buckets = TokenBuckets(per_minute, clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limited = scope["type"] == "http" and scope["path"].startswith(_GUARDED) and self._most
        wait = self._buckets.spend(_client(scope)) if limited else 0.0
        if wait <= 0:
            await self._app(scope, receive, send)
            return
        text = f"more than {self._most} requests a minute; try again in {math.ceil(wait)} s"
        error = ApiError(
            429,
            text,
            kind="rate_limit_error",
            code="rate_limit_exceeded",
            headers={"Retry-After": str(math.ceil(wait))},
        )
        await refuse(error, scope, receive, send)


def _client(scope: Scope) -> str:
    # The header itself says nothing: a client can write it in many ways, or invent one.
    return str(scope.get(CLIENT) or (scope.get("client") or ("",))[0])
