"""What measures a gateway: percentiles, both ways of sending, and the command over it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from neurorit.cli import app as command_line
from neurorit.serving.load_test import Answered, Asker, Load, by_clients, by_clock, percentile
from tests.serving.fakes import KEY, Upstream


@given(st.lists(st.floats(0, 1e6), min_size=1), st.integers(1, 100))
def test_a_percentile_is_the_smallest_value_that_enough_do_not_exceed(
    values: list[float], percent: int
) -> None:
    found = percentile(values, percent)
    assert found in values
    assert sum(v <= found for v in values) * 100 >= percent * len(values)
    smaller = [v for v in values if v < found]
    assert len(smaller) * 100 < percent * len(values)


def test_clients_send_each_request_once_and_no_more_at_a_time() -> None:
    sent: list[int] = []
    running = most = 0

    async def send(number: int) -> Answered:
        nonlocal running, most
        sent.append(number)
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return Answered(200 if number % 2 else 429, 0.1)

    load = asyncio.run(by_clients(send, 11, 4))
    assert sorted(sent) == list(range(11))
    assert most == 4
    assert load.statuses == {200: 5, 429: 6}
    assert len(load.good) == 5


def test_the_clock_does_not_wait_for_answers() -> None:
    async def work() -> Load:
        everyone = asyncio.Event()
        sent = 0

        async def send(number: int) -> Answered:
            nonlocal sent
            sent += 1
            if sent == 20:
                everyone.set()
            await asyncio.wait_for(everyone.wait(), 10)
            return Answered(200, 0.1)

        return await by_clock(send, 4000.0, 0.05)

    assert len(asyncio.run(work()).good) >= 20


def test_a_gateway_is_measured_streamed_and_whole(address: str) -> None:
    async def work(stream: bool) -> dict[str, Any]:
        async with Asker(address, ["Where?"], key=KEY, stream=stream) as asker:
            await asker.check()
            return (await by_clients(asker.send, 6, 3)).summary()

    streamed, whole = (asyncio.run(work(stream)) for stream in (True, False))
    for found in (streamed, whole):
        assert found["statuses"] == {"200": 6}
        assert 0 <= found["retrieval_ms"]["p50"] <= found["total_ms"]["p99"]
    assert streamed["first_token_ms"]["p50"] <= streamed["total_ms"]["p99"]
    assert "first_token_ms" not in whole


def test_a_stream_that_ends_with_an_error_is_no_good_answer(
    address: str, upstream: Upstream
) -> None:
    async def work() -> Load:
        async with Asker(address, ["Where?"], key=KEY) as asker:
            return await by_clients(asker.send, 1, 1)

    upstream.cut = True
    try:
        assert asyncio.run(work()).statuses == {502: 1}
    finally:
        upstream.cut = False


def test_the_command_prints_one_object_or_a_table(address: str, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(f"{KEY}\n")
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"id": "1", "question": "Where?", "answers": ["x"]}) + "\n")
    command = ["bench", "serve", "--url", address, "--requests", "4", "--concurrency", "2"]
    command += ["--api-key-file", str(key), "--questions", str(questions)]
    done = CliRunner().invoke(command_line, [*command, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["statuses"] == {"200": 4}
    table = CliRunner().invoke(command_line, command).stdout
    assert "4 x 200" in table and "first token" in table and "retrieval" in table


def test_no_gateway_and_no_key_are_one_line(address: str) -> None:
    async def check(url: str, key: str) -> None:
        async with Asker(url, ["x"], key=key) as asker:
            await asker.check()

    with pytest.raises(Exception, match="needs an API key"):
        asyncio.run(check(address, ""))
    with pytest.raises(Exception, match="no gateway answers at"):
        asyncio.run(check("http://127.0.0.1:9", ""))
