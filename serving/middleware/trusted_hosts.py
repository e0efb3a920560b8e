"""Which names a gateway without keys answers to, when only this machine is to reach it.

A web page from elsewhere may point a name of its own at this machine; to the browser they are then
one site, and the page's script could read passages.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from neurorit.serving.middleware.auth import GUARDED, refuse
from neurorit.serving.middleware.errors import ApiError

_OWN = frozenset({"localhost", "127.0.0.1", "::1"})


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class KnownHosts:
    """ASGI middleware: refuses requests to another host than this machine or one of `allowed`.

    Health and the page itself, which tell nothing, are there under any name.
    """

    def __init__(self, app: ASGIApp, *, allowed: Collection[str] = ()) -> None:
        self._app = app
        self._known = _OWN | {name.lower() for name in allowed}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(GUARDED):
            named = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
            name = _name(named)
            if name and name not in self._known:
                await refuse(
                    ApiError(
                        421,
                        f"this server answers to this machine alone, not as {name!r}: start it "
                        f"with --allowed-host {name}, or with keys (--api-key-file)",
                        code="unknown_host",
                    ),
                    scope,
                    receive,
                    send,
                )
                return
        await self._app(scope, receive, send)


def _name(host: str) -> str:
    """A Host header without its port: `[::1]:8000` -> `::1`."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")
