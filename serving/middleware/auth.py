"""Who may ask, how much, and how a refusal looks: keys, body limit, headers, error bodies."""

from __future__ import annotations

import hmac
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from neurorit.core.errors import BadInput
from neurorit.data.formats.text_files import read_text
from neurorit.serving.middleware.disconnect import run_until_left
from neurorit.serving.middleware.errors import ApiError, error_response
from neurorit.serving.middleware.token_buckets import TokenBuckets
from neurorit.serving.settings import ServeSettings

KEYS_VARIABLE = "NEURORIT_API_KEYS"
ADMIN_VARIABLE = "NEURORIT_ADMIN_KEY"
# What changes the server itself is the admin's, but for looking.
ADMIN = "/v1/adapters"
WRONG_KEYS = 60  # of one address in a minute
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


def read_admin_key(path: Path | None) -> str:
    """The admin's key: a file's first line, else NEURORIT_ADMIN_KEY, else none ("").

    Raises BadInput for a file or a variable that is there and holds no key.
    """
    if path is None:
        named = os.environ.get(ADMIN_VARIABLE)
        if named is not None and not named.strip():
            raise BadInput(f"{ADMIN_VARIABLE} is set and holds no key: name one, or unset it")
        return (named or "").strip()
    if not Path(path).is_file():
        raise BadInput(f"‹admin_key_file={path}›: no such file")
    words = read_text(Path(path)).split()
    if not words:
        raise BadInput(f"‹admin_key_file={path}›: holds no key")
    return words[0]


class Keys:
    """The keys of clients and of the admin, which may be replaced while the server runs.

    api: none at all means that clients need none; admin: "" means that nobody may do what is the
    admin's. The admin may do everything that clients may.
    """

    def __init__(self, api: Iterable[str] = (), admin: str = "") -> None:
        self.replace(api, admin)

    def replace(self, api: Iterable[str], admin: str = "") -> None:
        """Take these from the next request on."""
        # Digests have one length, so comparing them tells nothing about a key's length either.
        self._admin = [sha256(admin.encode()).digest()] if admin else []
        self._api = [sha256(key.encode()).digest() for key in api]

    @property
    def asked_for(self) -> bool:
        """Whether clients need a key."""
        return bool(self._api)

    @property
    def has_admin(self) -> bool:
        """Whether anybody may do what is the admin's."""
        return bool(self._admin)

    def holder(self, headers: Mapping[bytes, bytes], *, admin: bool = False) -> str | None:
        """The digest of a request's key, None where that is not one of ours; admin: the admin's."""
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        digest = sha256(key.strip()).digest()
        # Every key is compared, so that the time does not tell which one came close.
        known = self._admin if admin else [*self._api, *self._admin]
        matches = [hmac.compare_digest(digest, one) for one in known]
        return digest.hex() if scheme.lower() == b"bearer" and any(matches) else None


class Guard:
    """ASGI middleware: checks keys (not for health and the page) and bounds bodies.

    What comes behind it finds a digest of the key in the scope's CLIENT. An address that sends
    wrong keys again and again is told to wait; who sends a right one from there is not.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Keys,
        max_body: int = ServeSettings.max_body,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._max_body = max_body
        self._keys = keys
        self._wrong = TokenBuckets(WRONG_KEYS, clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name: value for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refuse(refusal, scope, receive, send)
            return
        body = await _body(headers, receive, self._max_body)
        if body is None:
            large = ApiError(413, f"the request body is larger than {self._max_body} bytes")
            await refuse(large, scope, receive, send)
            return
        await run_until_left(self._app, scope, body, receive, send)

    def _refusal(self, scope: Scope, headers: Mapping[bytes, bytes]) -> ApiError | None:
        """Why a request may not go on; a client that may is noted in its scope."""
        changes = scope["path"].startswith(ADMIN) and scope["method"] not in ("GET", "HEAD")
        if not changes and not (self._keys.asked_for and scope["path"].startswith(GUARDED)):
            return None
        client = self._keys.holder(headers)
        if client is None and (self._keys.asked_for or self._keys.has_admin):
            tried = b"authorization" in headers
            wait = self._wrong.spend((scope.get("client") or ("",))[0]) if tried else 0.0
            return _too_many_wrong(wait) if wait > 0 else _no_key()
        if changes and self._keys.holder(headers, admin=True) is None:
            return _no_admin()
        scope[CLIENT] = client
        return None


def _no_admin() -> ApiError:
    return ApiError(
        403,
        "only the admin may change the server: send the key that it was started with "
        "(--admin-key-file or NEURORIT_ADMIN_KEY)",
        kind="permission_error",
        code="admin_only",
    )


def _too_many_wrong(wait: float) -> ApiError:
    seconds = str(math.ceil(wait))
    return ApiError(
        429,
        f"too many wrong keys came from this address; try again in {seconds} s",
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        headers={"Retry-After": seconds},
    )


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
