"""Too many connections and too slow requests get a clear answer; others are served meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from neurorit.serving.gateway.connection_limits import bounded_connections
from neurorit.serving.metrics import Metrics
from neurorit.serving.middleware.auth import Guard, Keys
from neurorit.serving.middleware.concurrency_limit import Admission

HEAD = b"POST /echo HTTP/1.1\r\nHost: here\r\nContent-Length: 4\r\n"


@contextlib.asynccontextmanager
async def _server(
    most: int, seconds: float, metrics: Metrics | None = None, keys: tuple[str, ...] = ()
) -> AsyncIterator[int]:
    app = FastAPI()

    @app.post("/echo")
    async def echo(request: Request) -> Any:
        return (await request.body()).decode()

    @app.post("/late")
    async def late(request: Request) -> Any:
        await asyncio.sleep(0.6)
        return (await request.body()).decode()

    @app.get("/v1/retrieve")
    async def endless() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 2**16
                await asyncio.sleep(0)

        return StreamingResponse(parts())

    @app.get("/health")
    async def health() -> Any:
        return {"status": "ok"}

    protocol = bounded_connections(most, seconds, metrics)
    limited = Guard(
        Admission(app, running=2, queue=0, patience=0.1, metrics=Metrics()), keys=Keys(keys)
    )
    server = uvicorn.Server(
        uvicorn.Config(limited, port=0, http=protocol, ws="none", log_level="error", lifespan="off")
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving


class _Client:
    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> _Client:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: Any) -> None:
        self.writer.close()

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """The status and everything else of one response; 0 where the connection was closed."""
        head = b""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)
        if not head:
            return 0, b""
        lengths = [
            line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
        ]
        body = await self.reader.readexactly(int(lengths[0].split(b":")[1]))
        return int(head.split()[1]), head + body

    async def closed(self) -> bool:
        return await asyncio.wait_for(self.reader.read(), 10) == b""


def test_one_connection_too_many_is_told_so_and_a_probe_is_not() -> None:
    async def body() -> None:
        metrics = Metrics()
        async with _server(2, 30, metrics) as port, _Client(port), _Client(port):
            await asyncio.sleep(0.05)
            async with _Client(port) as third, _Client(port) as probe:
                await third.say(HEAD + b"\r\nmore")
                status, text = await third.answer()
                assert status == 503
                assert b"Retry-After: 1" in text and b'"code":"overloaded"' in text
                assert await third.closed()
                await probe.say(b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n")
                assert (await probe.answer())[0] == 200
            await asyncio.sleep(0.1)
            text = metrics.text()
            assert b"neurorit_connections_refused_total 1.0" in text
            assert b"neurorit_connections 2.0" in text

    asyncio.run(body())


def test_a_place_is_free_again_when_a_client_leaves() -> None:
    async def body() -> None:
        async with _server(1, 30) as port:
            async with _Client(port) as first:
                await first.say(HEAD + b"\r\nmore")
                assert (await first.answer())[0] == 200
            await asyncio.sleep(0.05)
            async with _Client(port) as second:
                await second.say(HEAD + b"\r\nmore")
                assert (await second.answer())[0] == 200

    asyncio.run(body())


def test_a_request_that_does_not_arrive_gets_408() -> None:
    async def body() -> None:
        async with _server(9, 0.3) as port:
            for part in (b"", b"POST /echo HT", HEAD, HEAD + b"\r\nmo"):
                async with _Client(port) as slow:
                    await slow.say(part)
                    status, text = await slow.answer()
                    assert status == 408, part
                    assert b'"code":"request_timeout"' in text
                    assert await slow.closed()

    asyncio.run(body())


def test_a_used_connection_may_rest_but_not_dawdle() -> None:
    async def body() -> None:
        async with _server(9, 0.3) as port, _Client(port) as client:
            for _ in range(2):
                await client.say(HEAD + b"\r\nmore")
                assert (await client.answer())[0] == 200
                await asyncio.sleep(0.5)
            await client.say(HEAD)
            assert (await client.answer())[0] == 408

    asyncio.run(body())


def test_a_long_answer_is_no_slow_request() -> None:
    async def body() -> None:
        async with _server(9, 0.2) as port, _Client(port) as client:
            await client.say(HEAD.replace(b"/echo", b"/late") + b"\r\nmore")
            assert (await client.answer())[0] == 200

    asyncio.run(body())


def test_one_that_waits_behind_another_does_not_end_it() -> None:
    async def body() -> None:
        async with _server(9, 0.2) as port:
            for second in (b"POST /echo HT", HEAD, HEAD + b"\r\nmo"):
                async with _Client(port) as client:
                    await client.say(HEAD.replace(b"/echo", b"/late") + b"\r\nmore" + second)
                    assert (await client.answer())[0] == 200
                    assert (await client.answer())[0] == 408

    asyncio.run(body())


def _with_small_buffer(port: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
    made.connect(("127.0.0.1", port))
    made.settimeout(0)
    made.sendall(b"GET /v1/retrieve HTTP/1.1\r\nHost: here\r\n\r\n")
    return made


async def _status(port: int) -> int:
    async with _Client(port) as client:
        await client.say(b"GET /v1/retrieve HTTP/1.1\r\nHost: here\r\n\r\n")
        return int((await client.reader.readuntil(b"\r\n\r\n")).split()[1])


def test_clients_that_read_nothing_of_their_answers_lose_their_turns() -> None:
    async def body() -> None:
        async with _server(9, 0.5) as port:
            held = [_with_small_buffer(port) for _ in range(2)]
            try:
                await asyncio.sleep(0.2)
                assert await _status(port) == 429
                async with asyncio.timeout(10):
                    while await _status(port) != 200:
                        await asyncio.sleep(0.1)
            finally:
                for one in held:
                    one.close()

    asyncio.run(body())


def test_a_client_that_reads_slowly_keeps_its_answer() -> None:
    async def body() -> None:
        async with _server(9, 0.5) as port:
            slow = _with_small_buffer(port)
            try:
                for _ in range(40):
                    await asyncio.sleep(0.05)
                    assert await asyncio.get_running_loop().sock_recv(slow, 2**22)
            finally:
                slow.close()

    asyncio.run(body())


def test_answers_that_are_not_fetched_do_not_hold_a_connection() -> None:
    async def body() -> None:
        metrics = Metrics()
        async with _server(9, 0.3, metrics) as port:
            client = _with_small_buffer(port)
            try:
                client.sendall(b"GET /v1/retrieve HTTP/1.1\r\nHost: here\r\n\r\n" * 20)
                async with asyncio.timeout(10):
                    while metrics.connections._value.get() < 1:
                        await asyncio.sleep(0.05)
                    while metrics.connections._value.get() > 0:
                        await asyncio.sleep(0.05)
            finally:
                client.close()

    asyncio.run(body())


def test_a_head_of_more_than_64_kib_is_refused_before_it_is_looked_at() -> None:
    async def body() -> None:
        line = b"X: " + b"y" * 1000 + b"\r\n"
        start = b"GET /health HTTP/1.1\r\nHost: here\r\n"
        heads = {
            "many whole lines": start + line * 70 + b"\r\n",
            "one line without an end": start + b"X: " + b"y" * 70_000,
            "a long address": b"GET /" + b"y" * 70_000,
            "many short lines": start + b"a: b\r\n" * 12_000,
        }
        async with _server(9, 10, keys=("key",)) as port:
            for what, head in heads.items():
                async with _Client(port) as client:
                    await client.say(head)
                    status, text = await client.answer()
                    assert status == 431, what
                    assert b"larger than 65536 bytes" in text
                    assert await client.closed()
            async with _Client(port) as client:  # what is within the bound, and what follows it
                await client.say(start + line * 60 + b"\r\n")
                assert (await client.answer())[0] == 200
                await client.say(b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n")
                assert (await client.answer())[0] == 200

    asyncio.run(body())


def test_48_mib_of_header_are_dropped_without_stopping_others() -> None:
    async def flood(port: int) -> None:
        async with _Client(port) as client:
            with contextlib.suppress(ConnectionError):
                await client.say(b"GET /health HTTP/1.1\r\nX: ")
                for _ in range(48):
                    await client.say(b"y" * 2**20)

    async def body() -> None:
        async with _server(9, 10) as port:
            flooding = asyncio.create_task(flood(port))
            slowest = 0.0
            while not flooding.done():
                asked = time.monotonic()
                async with _Client(port) as client:
                    await client.say(b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n")
                    assert (await client.answer())[0] == 200
                slowest = max(slowest, time.monotonic() - asked)
            await flooding
            assert slowest < 1.0

    asyncio.run(body())


@pytest.mark.parametrize("offer", [b"Upgrade: h2c", b"upgrade:h2c", b"UPGRADE:websocket"])
def test_an_offer_of_another_protocol_keeps_its_body(offer: bytes) -> None:
    async def body() -> None:
        async with _server(9, 5) as port, _Client(port) as client:
            head = HEAD + offer + b"\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n"
            await client.say(head + b"blue")
            status, answer = await client.answer()
            assert (status, b"blue" in answer) == (200, True)

    asyncio.run(body())


def test_one_that_was_refused_for_its_size_is_told_once() -> None:
    async def body() -> None:
        async with _server(9, 0.3) as port, _Client(port) as client:
            head = b"POST /echo HTTP/1.1\r\nHost: here\r\nContent-Length: 99999999\r\n\r\n"
            await client.say(head + b"x")
            said = await asyncio.wait_for(client.reader.read(), 5)
            assert said.startswith(b"HTTP/1.1 413") and said.count(b"HTTP/1.1") == 1

    asyncio.run(body())


def test_what_follows_a_body_in_chunks_is_no_header() -> None:
    async def body() -> None:
        async with _server(9, 10, keys=("key",)) as port, _Client(port) as client:
            head = b"POST /v1/models HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"
            await client.say(head + b"1\r\nx\r\n0\r\nAuthorization: Bearer key\r\n\r\n")
            assert (await client.answer())[0] == 401

    asyncio.run(body())
