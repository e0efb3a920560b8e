"""Work for a client that has left is cancelled, and with it the generation upstream.

An ASGI server only tells that a connection was cut; a plain route would go on for nobody.
"""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import ASGIApp, Message, Receive, Scope, Send


async def run_until_left(
    app: ASGIApp, scope: Scope, body: bytes, receive: Receive, send: Send
) -> None:
    """Run an app on a request whose whole body was read; end it when the client disconnects."""
    left = asyncio.Event()
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        if waiting:
            return waiting.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def listen() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    work = asyncio.ensure_future(app(scope, again, send))
    listener = asyncio.ensure_future(listen())
    try:
        await asyncio.wait((work, listener), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
    finally:
        # Also when the server itself gives up on this request.
        listener.cancel()
        work.cancel()
