"""Who may ask, how much, and how a refusal looks: keys, body limit, headers, error bodies."""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from neurorit.core.errors import BadInput
from neurorit.data.formats.text_files import read_text
from neurorit.serving.middleware.disconnect import run_until_left
from neurorit.serving.middleware.errors import ApiError, error_response
from neurorit.serving.settings import ServeSettings

KEYS_VARIABLE = "NEURORIT_API_KEYS"
# Where a request's scope says which key it came with.
CLIENT = "neurorit.client"
# Everything that tells something of passages or of what is asked.
GUARDED = ("/v1/", "/metrics", "/openapi.json")

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


def read_api_keys(path: Path | None) -> frozenset[str]:
    """Keys from a file (one a line, # starts a comment) and from NEURORIT_API_KEYS (by comma).

    None at all means that no key is asked for. Raises BadInput for a file or a variable that is
    there and holds no key.
    """
    named = os.environ.get(KEYS_VARIABLE)
    keys = {key.strip() for key in (named or "").split(",")} - {""}
    if named is not None and not keys:
        raise BadInput(f"{KEYS_VARIABLE} is set and holds no key: name keys, or unset it")
    if path is not None:
        if not Path(path).is_file():
            raise BadInput(f"‹api_key_file={path}›: no such file")
        lines = read_text(Path(path)).splitlines()
        found = {line.strip() for line in lines if not line.lstrip().startswith("#")} - {""}
        if not found:
            raise BadInput(f"‹api_key_file={path}›: holds no key; write one a line")
        keys |= found
    return frozenset(keys)


class Guard:
    """ASGI middleware: checks keys (not for health and the page) and bounds bodies.

    What comes behind it finds a digest of the key in the scope's CLIENT.
    """

    def __init__(
        self, app: ASGIApp, *, api_keys: Iterable[str] = (), max_body: int = ServeSettings.max_body
    ) -> None:
        self._app = app
        self._max_body = max_body
        # Digests have one length, so comparing them tells nothing about a key's length either.
        self._digests = [sha256(key.encode()).digest() for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name: value for name, value in scope["headers"]}
        if self._digests and scope["path"].startswith(GUARDED):
            client = self._client(headers)
            if client is None:
                await refuse(_no_key(), scope, receive, send)
                return
            scope[CLIENT] = client
        body = await _body(headers, receive, self._max_body)
        if body is None:
            large = ApiError(413, f"the request body is larger than {self._max_body} bytes")
            await refuse(large, scope, receive, send)
            return
        await run_until_left(self._app, scope, body, receive, send)

    def _client(self, headers: Mapping[bytes, bytes]) -> str | None:
        """The digest of the request's key, None where that is not one of ours."""
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        digest = sha256(key.strip()).digest()
        # Every key is compared, so that the time does not tell which one came close.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return digest.hex() if scheme.lower() == b"bearer" and any(matches) else None


def _no_key() -> ApiError:
    return ApiError(
        401,
        "this server needs an API key: send 'Authorization: Bearer KEY'",
        kind="authentication_error",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


class StrictHeaders:
    """ASGI middleware: adds HEADERS to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, _with_headers(send) if scope["type"] == "http" else send)


async def refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request with an error, from within a middleware."""
    await error_response(error)(scope, receive, send)


async def _body(headers: Mapping[bytes, bytes], receive: Receive, most: int) -> bytes | None:
    """The whole request body, None when it is over the limit."""
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > most:
        return None
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(parts)
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            return None
        if not message.get("more_body"):
            return b"".join(parts)


def _with_headers(send: Send) -> Send:
    added: list[tuple[Any, Any]] = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]

    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *added]
        await send(message)

    return wrapped
