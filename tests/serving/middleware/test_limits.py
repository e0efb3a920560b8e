"""Rates of clients, and work that ends when its client has left."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from neurorit.core.endpoint.replies import Piece
from neurorit.model.prompts import PromptTemplate
from neurorit.serving.gateway.app import Gateway, create_app
from neurorit.serving.middleware.auth import Guard, Keys
from neurorit.serving.middleware.rate_limit import RateLimit
from neurorit.serving.rag.pipeline import RagPipeline
from tests.serving.fakes import WordRetriever
from tests.serving.listening import listening
from tests.serving.tiny_llama import tiny_tokenizer


async def plain(scope: Scope, receive: Receive, send: Send) -> None:
    assert HttpRequest(scope)
    await PlainTextResponse("ok")(scope, receive, send)


def test_a_client_has_a_minutes_requests_and_gets_more_with_time() -> None:
    now = 0.0

    async def work() -> None:
        nonlocal now
        limited = RateLimit(plain, per_minute=3, clock=lambda: now)
        app = Guard(limited, keys=Keys(["a", "b"]))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://g") as client:

            async def ask(key: str, path: str = "/v1/models") -> httpx.Response:
                return await client.get(path, headers={"Authorization": f"Bearer {key}"})

            assert [(await ask("a")).status_code for _ in range(5)] == [200] * 3 + [429] * 2
            refused = await ask("a")
            assert refused.headers["retry-after"] == "20"
            assert refused.json()["error"]["type"] == "rate_limit_error"
            assert (await ask("b")).status_code == 200
            assert (await ask("a", "/health")).status_code == 200
            now = 20.0
            assert [(await ask("a")).status_code for _ in range(2)] == [200, 429]
            now = 10_000.0
            assert [(await ask("a")).status_code for _ in range(4)] == [200] * 3 + [429]

    asyncio.run(work())


@pytest.mark.parametrize("keys", [(), ("a",)])
def test_no_way_of_writing_the_header_gives_a_client_more(keys: tuple[str, ...]) -> None:
    async def work() -> None:
        app = Guard(RateLimit(plain, per_minute=3), keys=Keys(keys))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://g") as client:
            written = ["Bearer a", "bearer  a", "BEARER   a", "Bearer a ", "Bearer    a"]
            if not keys:
                written = [f"Bearer invented-{i}" for i in range(5)]
            answers = [
                await client.get("/v1/models", headers={"Authorization": header})
                for header in written
            ]
            assert [answer.status_code for answer in answers] == [200] * 3 + [429] * 2

    asyncio.run(work())


def test_one_that_waits_too_long_for_a_turn_is_told_to_come_again() -> None:
    async def work() -> None:
        model = Endless()
        pipeline = RagPipeline(WordRetriever(), tiny_tokenizer(), PromptTemplate(), model)
        gateway = Gateway("tiny", "ready", pipeline)
        app = create_app(gateway, running=1, queue=2, patience=0.1)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://g") as client:
            body: Any = {"messages": [{"role": "user", "content": "x"}]}
            first = asyncio.create_task(client.post("/v1/chat/completions", json=body))
            while not model.running:
                await asyncio.sleep(0.01)
            late = await client.post("/v1/chat/completions", json=body)
            assert late.status_code == 503
            assert late.headers["retry-after"] == "1"
            assert "no turn came" in late.json()["error"]["message"]
            first.cancel()
            await asyncio.wait([first])
            assert "neurorit_requests_waiting 0.0" in gateway.metrics.text().decode()
            # The turn was not lost.
            again = asyncio.create_task(client.post("/v1/chat/completions", json=body))
            while model.begun < 2:
                await asyncio.sleep(0.01)
            again.cancel()
            await asyncio.wait([again])

    asyncio.run(work())


def test_without_a_limit_everything_passes() -> None:
    async def work() -> None:
        transport = httpx.ASGITransport(RateLimit(plain, per_minute=0))
        async with httpx.AsyncClient(transport=transport, base_url="http://g") as client:
            for _ in range(50):
                assert (await client.get("/v1/models")).status_code == 200

    asyncio.run(work())


class Endless:
    """A language model that writes until it is left; counts what runs."""

    def __init__(self) -> None:
        self.running = 0
        self.begun = 0

    async def stream(
        self, *_: object, whole: bool = False, **__: object
    ) -> AsyncGenerator[Piece, None]:
        self.running += 1
        self.begun += 1
        try:
            while True:
                await asyncio.sleep(0.01)
                if not whole:
                    yield Piece("word ")
        finally:
            self.running -= 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_cut_connection_ends_the_work_for_it(stream: bool) -> None:
    model = Endless()
    pipeline = RagPipeline(WordRetriever(), tiny_tokenizer(), PromptTemplate(), model)
    with listening(create_app(Gateway("tiny", "ready", pipeline))) as url:
        body: Any = {"messages": [{"role": "user", "content": "x"}], "stream": stream}
        content = httpx.Request("POST", url, json=body).content
        address = urlsplit(url)
        with socket.create_connection((address.hostname, address.port)) as connection:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                % len(content)
                + content
            )
            _wait_for(lambda: model.running == 1)
        _wait_for(lambda: model.running == 0)
        assert model.begun == 1
        assert httpx.get(f"{url}/health").status_code == 200


def _wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.01)
