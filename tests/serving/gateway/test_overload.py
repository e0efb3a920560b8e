"""Ten times more than can be answered: clear refusals, steady memory, and service afterwards.

How long admitted requests take then is measured by `benchmarks/serving.py`, on a quiet machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path

import httpx
import pytest

from neurorit.serving.gateway.connection_limits import allow_many
from neurorit.serving.load_test import Asker, Load, by_clients, by_clock
from neurorit.serving.settings import ServeSettings
from tests.serving.live import QUESTION, Live, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SECONDS = 8.0
CONNECTIONS = 1000
# What a first overload may take for its connections' buffers, and what a second one may add.
FIRST_GROWTH, GROWTH = 256 * 2**20, 32 * 2**20


def test_ten_times_the_load_gets_answers_or_clear_refusals(front: Live) -> None:
    before, first, during, after, grown = asyncio.run(_overload(front))
    assert set(before.statuses) == {200}, before.statuses
    assert set(during.statuses) <= {200, 429, 503}, during.statuses
    assert during.statuses[200] > 0
    assert during.statuses[429] > during.statuses[200], during.statuses
    assert set(first.statuses) <= {200, 429, 503}, first.statuses
    assert grown[0] < FIRST_GROWTH and grown[1] < GROWTH, [f"{n >> 20} MiB" for n in grown]
    assert set(after.statuses) == {200}, after.statuses
    assert httpx.get(f"{front.url}/ready").json()["ready"] is True
    figures = httpx.get(f"{front.url}/metrics").text
    assert "neurorit_requests_running 0.0" in figures
    assert "neurorit_requests_waiting 0.0" in figures


async def _overload(front: Live) -> tuple[Load, Load, Load, Load, list[int]]:
    loads, held = [], []
    async with Asker(front.url, [QUESTION], stream=False, connections=CONNECTIONS) as asker:
        before = await by_clients(asker.send, 256, 64)
        held.append(_memory(front.process.pid))
        for _ in range(2):
            loads.append(await by_clock(asker.send, 10 * before.per_second, SECONDS))
            held.append(_memory(front.process.pid))
        after = await by_clients(asker.send, 128, 16)
    return before, loads[0], loads[1], after, [held[1] - held[0], held[2] - held[1]]


def _memory(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_connections_beyond_the_limit_are_refused_and_take_little(front: Live) -> None:
    allow_many()
    before = _memory(front.process.pid)
    address = ("127.0.0.1", int(front.url.rsplit(":", 1)[1]))
    with contextlib.ExitStack() as idle:
        for _ in range(ServeSettings.connections + 100):
            idle.enter_context(socket.create_connection(address, timeout=10))
        wait_for(lambda: _fresh_chat(front).status_code == 503, 10)
        refused = _fresh_chat(front)
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "overloaded"
        assert httpx.get(f"{front.url}/ready").json()["ready"] is True
        assert _memory(front.process.pid) - before < GROWTH
    wait_for(lambda: _fresh_chat(front).status_code == 200, 10)


def _fresh_chat(front: Live) -> httpx.Response:
    """A question on a connection of its own."""
    body = {"messages": [{"role": "user", "content": QUESTION}]}
    return httpx.post(f"{front.url}/v1/chat/completions", json=body, timeout=30)
