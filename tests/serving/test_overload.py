"""Ten times more than can be answered: clear refusals, steady memory, and service afterwards.

How long admitted requests take then is measured by `benchmarks/serving.py`, on a quiet machine.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import httpx
import pytest

from serving.load import Asker, Load, by_clients, by_clock
from tests.serving.live import QUESTION, Live

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SECONDS = 8.0
# A first overload fills each connection's buffers; a second one must add next to nothing.
CONNECTIONS = 1000
GROWTH = 32 * 2**20


def test_ten_times_the_load_gets_answers_or_clear_refusals(front: Live) -> None:
    before, during, after, grown = asyncio.run(_overload(front))
    assert set(before.statuses) == {200}, before.statuses
    assert set(during.statuses) <= {200, 429, 503}, during.statuses
    assert during.statuses[200] > 0
    assert during.statuses[429] > during.statuses[200], during.statuses
    assert grown < GROWTH, f"{grown / 2**20:.0f} MiB"
    assert set(after.statuses) == {200}, after.statuses
    assert httpx.get(f"{front.url}/ready").json()["ready"] is True
    figures = httpx.get(f"{front.url}/metrics").text
    assert "neurorit_requests_running 0.0" in figures
    assert "neurorit_requests_waiting 0.0" in figures


async def _overload(front: Live) -> tuple[Load, Load, Load, int]:
    async with Asker(front.url, [QUESTION], stream=False, connections=CONNECTIONS) as asker:
        before = await by_clients(asker.send, 256, 64)
        first = await by_clock(asker.send, 10 * before.per_second, SECONDS)
        memory = _memory(front.process.pid)
        during = await by_clock(asker.send, 10 * before.per_second, SECONDS)
        grown = _memory(front.process.pid) - memory
        print(first.statuses, during.statuses, f"{memory >> 20} MiB, then {grown >> 20} more")
        after = await by_clients(asker.send, 128, 16)
    return before, during, after, grown


def _memory(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
