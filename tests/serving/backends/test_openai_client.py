"""The client of the model's server: how long it waits, and for what."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any

import orjson
import pytest

from neurorit.core.endpoint.replies import CallFailed
from neurorit.serving.backends.openai_client import ChatClient, CompletionClient
from tests.serving.fakes import Upstream


class Slow(Upstream):
    """An upstream whose whole answers come after a while."""

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        threading.Event().wait(0.5)
        super()._answer(handler)


def complete(client: CompletionClient, **options: Any) -> str:
    async def work() -> str:
        async with client:
            return "".join([piece.text async for piece in client.stream([1], **options)])

    return asyncio.run(work())


def test_a_whole_answer_may_take_longer_than_a_stream_may_be_silent() -> None:
    url = Slow([["Karvel"]], forever=True).url
    patient = CompletionClient(url, "", "tiny", timeout=0.1)
    assert complete(patient, whole=True) == "Karvel"
    with pytest.raises(CallFailed, match="cannot be reached"):
        complete(CompletionClient(url, "", "tiny", timeout=0.1))
    with pytest.raises(CallFailed, match="cannot be reached"):
        complete(CompletionClient(url, "", "tiny", whole_timeout=0.1), whole=True)


async def _closing(answered: int) -> tuple[asyncio.Server, list[int]]:
    """A server that answers so many requests of each connection and closes it at the next one.

    Returns it and, for each connection, how many requests came.
    """
    came: list[int] = []
    body = orjson.dumps({"choices": [{"text": "blue", "finish_reason": "stop"}]})
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(came)
        came.append(0)
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                asked = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", asked, re.I)
                assert length
                await reader.readexactly(int(length[1]))
                came[number] += 1
                if came[number] > answered:
                    break
                writer.write(head + body)
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0), came


def _ask_twice(answered: int) -> tuple[list[str], list[int]]:
    async def ask() -> tuple[list[str], list[int]]:
        server, came = await _closing(answered)
        port = server.sockets[0].getsockname()[1]
        texts = []
        async with server, CompletionClient(f"http://127.0.0.1:{port}", "", "m") as client:
            for _ in range(2):
                try:
                    texts.append((await client.complete([1])).text)
                except CallFailed as error:
                    texts.append(f"{error.status}: {error}")
        return texts, came

    return asyncio.run(ask())


def test_a_kept_connection_that_closes_when_it_is_used_again_costs_no_answer() -> None:
    texts, came = _ask_twice(answered=1)
    assert texts == ["blue", "blue"]
    assert came == [2, 1]


def test_a_new_connection_that_closes_is_not_asked_again() -> None:
    texts, came = _ask_twice(answered=0)
    assert texts == ["None: the language model broke off in the middle of an answer"] * 2
    assert came == [1, 1]


def test_one_that_computes_and_then_closes_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("neurorit.serving.backends.openai_client._AT_ONCE", 0.0)
    texts, came = _ask_twice(answered=1)
    assert texts[0] == "blue" and "broke off" in texts[1]
    assert came == [2]


class Moved(Upstream):
    """An upstream that sends every request, and every look, to another one."""

    elsewhere = ""

    def _send(self, handler: BaseHTTPRequestHandler, body: str) -> None:
        handler.send_response(307)
        handler.send_header("Location", self.elsewhere + handler.path)
        handler.send_header("Content-Length", "0")
        handler.end_headers()


@pytest.mark.parametrize("whole", [True, False])
def test_no_redirect_is_followed(whole: bool) -> None:
    other = Upstream([["Karvel"]], forever=True)
    moved = Moved([["x"]], forever=True)
    moved.elsewhere = other.url
    client = CompletionClient(moved.url, "secret", "tiny")
    with pytest.raises(CallFailed, match=rf"redirects to {other.url}.* is not followed"):
        complete(client, whole=whole)
    with pytest.raises(CallFailed, match="is not followed"):
        asyncio.run(_look(client))
    assert other.requests == [] and other.keys == []


async def _look(client: CompletionClient) -> None:
    async with client:
        await client.look()


def test_a_chat_of_parts_is_read_whole_and_streamed() -> None:
    class Parts(Upstream):
        def _choice(self, text: str, chat: bool, part: str) -> dict[str, Any]:
            return {part: {"content": [{"type": "text", "text": text}], "reasoning_content": "m"}}

    url = Parts([["Kar", "vel"]], forever=True).url
    for whole in (True, False):
        client = ChatClient(url, "", "tiny")
        assert complete(client, whole=whole, messages=[{"role": "user", "content": "x"}]) == (
            "Karvel"
        )


@pytest.mark.parametrize(("last", "whole"), [("data: [DONE]", True), ("data: [DO", False)])
def test_the_end_of_a_stream_needs_no_line_end(last: str, whole: bool) -> None:
    class Unended(Upstream):
        def _lines(self, pieces: list[str], chat: bool) -> Any:
            yield 'data: {"choices": [{"text": "blue"}]}\n\n' + last

    client = CompletionClient(Unended([["x"]]).url, "", "tiny")
    if whole:
        assert complete(client) == "blue"
    else:
        with pytest.raises(CallFailed, match="broke off"):
            complete(client)
