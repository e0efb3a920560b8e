"""The client of the model's server: how long it waits, and for what."""

from __future__ import annotations

import asyncio
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from serving.client import CompletionClient, UpstreamError
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
    with pytest.raises(UpstreamError, match="cannot be reached"):
        complete(CompletionClient(url, "", "tiny", timeout=0.1))
    with pytest.raises(UpstreamError, match="cannot be reached"):
        complete(CompletionClient(url, "", "tiny", whole_timeout=0.1), whole=True)
