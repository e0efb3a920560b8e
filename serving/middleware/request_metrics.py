"""Every request is counted and timed, and one that nobody could answer gets a clean 500.

The outermost middleware: refusals for a key, a rate or a full queue are counted too.
"""

from __future__ import annotations

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from neurorit.serving.metrics import Metrics
from neurorit.serving.middleware.auth import refuse
from neurorit.serving.middleware.concurrency_limit import ROUTES
from neurorit.serving.middleware.errors import ApiError

LEFT = 499  # the client left before an answer began
_log = logging.getLogger("neurorit.serving")


class Counting:
    """ASGI middleware around all others."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Only known routes have a label of their own: paths are the client's to invent.
        route = scope["path"] if scope["path"] in ROUTES else "other"
        status = LEFT

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        started = time.perf_counter()
        try:
            await self._app(scope, receive, noting)
        except Exception:
            _log.exception("a request to %s failed", route)
            if status == LEFT:
                error = ApiError(500, "the server failed; see its log", kind="server_error")
                await refuse(error, scope, receive, noting)
        finally:
            self._metrics.requests.labels(route, str(status)).inc()
            if route != "other" and status == 200:
                self._metrics.total.observe(time.perf_counter() - started)
