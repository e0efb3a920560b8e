"""Several upstreams as one: balance, failing over, and what is refused before anything starts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from neurorit.core.endpoint.replies import CallFailed, Piece
from neurorit.core.errors import BadInput, NeuroritError
from neurorit.serving.backends.backend import System
from neurorit.serving.backends.openai_client import ChatClient
from neurorit.serving.backends.pool import Upstreams, check_url, read_upstream_key
from neurorit.serving.gateway.server import ServeSettings
from tests.serving.fakes import Upstream


def ask(upstreams: Upstreams, times: int = 1, **options: Any) -> list[str]:
    async def work() -> list[str]:
        texts = []
        for _ in range(times):
            pieces = [piece.text async for piece in upstreams.stream([1, 2], **options)]
            texts.append("".join(pieces))
        return texts

    return asyncio.run(work())


def test_a_server_that_fails_is_passed_over_and_left_alone() -> None:
    broken, sound = Upstream([], status=503), Upstream([["Karvel"]], forever=True)
    upstreams = Upstreams([broken.client(), sound.client()])
    assert ask(upstreams, 4) == ["Karvel"] * 4
    assert len(broken.requests) == 1
    assert len(sound.requests) == 4


def test_a_server_that_has_rested_is_asked_again() -> None:
    first, second = Upstream([["one"]], status=503, forever=True), Upstream([["two"]], forever=True)
    upstreams = Upstreams([first.client(), second.client()], rest_seconds=0)
    assert ask(upstreams) == ["two"]
    first.status = 200
    assert ask(upstreams) == ["one"]


def test_when_all_fail_the_last_failure_is_told_and_all_were_asked() -> None:
    servers = [Upstream([], status=503), Upstream([], status=500)]
    with pytest.raises(CallFailed, match="answered 500"):
        ask(Upstreams([server.client() for server in servers]))
    assert [len(server.requests) for server in servers] == [1, 1]


def test_a_refused_request_is_not_tried_elsewhere() -> None:
    servers = [Upstream([], status=400), Upstream([["x"]])]
    with pytest.raises(CallFailed) as caught:
        ask(Upstreams([server.client() for server in servers]))
    assert caught.value.status == 400
    assert servers[1].requests == []


def test_after_the_first_word_there_is_no_second_try() -> None:
    servers = [Upstream([["Kar", "vel"]], cut=True), Upstream([["x"]])]
    with pytest.raises(CallFailed, match="broke off"):
        ask(Upstreams([server.client() for server in servers]))
    assert servers[1].requests == []


def test_a_server_that_breaks_off_is_not_the_next_one_asked() -> None:
    """With nothing to do it would be the least busy one, and draw every request."""
    broken = Upstream([["Kar", "vel"]], cut=True, forever=True)
    sound = Upstream([["Karvel"]], forever=True)
    upstreams = Upstreams([broken.client(), sound.client()])
    with pytest.raises(CallFailed, match="broke off"):
        ask(upstreams)
    assert ask(upstreams, 3) == ["Karvel"] * 3
    assert len(broken.requests) == 1


def test_a_server_that_hangs_gives_its_requests_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neurorit.serving.backends.pool._GONE_SECONDS", 0.01)
    hung, sound = Held(), Upstream([["Karvel"]])

    async def work() -> list[str]:
        upstreams = Upstreams([hung, sound.client()])  # type: ignore[list-item]

        async def one() -> str:
            return "".join([piece.text async for piece in upstreams.stream([1])])

        asked = asyncio.create_task(one())
        await asyncio.sleep(0.05)
        assert not asked.done()
        # What the looks from the background find out.
        upstreams._servers[0].fault = NeuroritError("it does not answer")
        answer = await asyncio.wait_for(asked, 10)
        assert [server.running for server in upstreams._servers] == [0, 0]
        return [answer]

    assert asyncio.run(work()) == ["Karvel"]
    assert hung.asked == 1


class Held:
    """A client whose answers wait until they are let go."""

    def __init__(self) -> None:
        self.asked = 0
        self.let = asyncio.Event()

    async def stream(self, *_: object, **__: object) -> AsyncGenerator[Piece, None]:
        self.asked += 1
        await self.let.wait()
        yield Piece("x", "stop")


def test_the_least_busy_server_is_asked_and_leaving_gives_the_place_back() -> None:
    async def one(upstreams: Upstreams) -> None:
        async with aclosing(upstreams.stream([1])) as pieces:
            async for _ in pieces:
                pass

    async def work() -> None:
        held = [Held(), Held()]
        upstreams = Upstreams(held)  # type: ignore[arg-type]
        tasks = [asyncio.create_task(one(upstreams)) for _ in range(6)]
        await asyncio.sleep(0.01)
        assert [h.asked for h in held] == [3, 3]
        for task in tasks[:6:2]:
            task.cancel()
        await asyncio.wait(tasks[:6:2])
        assert [server.running for server in upstreams._servers] == [0, 3]
        more = asyncio.create_task(one(upstreams))
        await asyncio.sleep(0.01)
        assert [h.asked for h in held] == [4, 3]
        for h in held:
            h.let.set()
        await asyncio.gather(more, *tasks[1:6:2])

    asyncio.run(work())


@pytest.mark.parametrize(
    "url", ["gpu-1:8000", "ftp://x", "http://", "http://me:pw@x", "http://x/?k=1"]
)
def test_addresses_of_another_form_are_refused_and_keys_in_them_too(url: str) -> None:
    with pytest.raises(BadInput, match="upstream") as caught:
        check_url(url, "upstream")
    assert "pw" not in str(caught.value)


def test_an_address_may_end_with_v1() -> None:
    assert check_url("http://gpu-1:8000/v1/", "upstream") == "http://gpu-1:8000"


def test_the_upstreams_key_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURORIT_UPSTREAM_KEY", "from-environment")
    assert read_upstream_key(None) == "from-environment"
    path = tmp_path / "key"
    path.write_text("from-file\n")
    assert read_upstream_key(path) == "from-file"
    path.write_text("\n")
    with pytest.raises(BadInput, match="holds no key"):
        read_upstream_key(path)


def test_a_client_sends_its_key_and_none_where_there_is_none() -> None:
    upstream = Upstream([["x"]], forever=True)

    async def work() -> None:
        for key in ("k", ""):
            async with upstream.client(key) as client:
                await client.complete([1])

    asyncio.run(work())
    assert upstream.keys == ["Bearer k", None]


def checkpoint(folder: Path) -> Path:
    (folder / "config.json").write_text('{"max_position_embeddings": 2048}')
    return folder


def test_a_start_waits_for_servers_and_says_what_is_wrong(tmp_path: Path) -> None:
    upstream = Upstream([["x"]], status=503, context=512)
    told: list[str] = []

    async def work() -> None:
        system = System(checkpoint(tmp_path), urls=[upstream.url])
        starting = asyncio.create_task(system.start(told.append))
        while len(told) < 2:
            await asyncio.sleep(0.01)
        assert told == [
            "looking for the upstream servers",
            "waiting for the upstream servers: the language model answered 503: no room left",
        ]
        upstream.status = 200
        await starting
        # A server that takes less than the checkpoint does says so.
        assert system.context == 512
        await system.aclose()

    asyncio.run(work())


def test_a_wrong_key_is_an_error_naming_the_option(tmp_path: Path) -> None:
    async def work() -> None:
        system = System(checkpoint(tmp_path), urls=[Upstream([], status=401).url])
        try:
            await system.start(lambda phase: None)
        finally:
            await system.aclose()

    with pytest.raises(BadInput, match=r"upstream: .* refuses the key \(401\); .*key_file"):
        asyncio.run(work())


def test_a_server_that_looked_dead_gets_no_request_and_gets_some_when_it_is_back() -> None:
    dead, sound = Upstream([["a"]], status=503, forever=True), Upstream([["b"]], forever=True)

    async def work() -> None:
        upstreams = Upstreams([dead.client(), sound.client()], rest_seconds=0)

        async def ask_once() -> str:
            return "".join([piece.text async for piece in upstreams.stream([1])])

        faults = await upstreams.look()
        assert len(faults) == 1
        assert [await ask_once() for _ in range(3)] == ["b"] * 3
        assert dead.requests == []
        dead.status = 200
        assert await upstreams.look() == []
        assert await ask_once() == "a"
        dead.status = sound.status = 503
        await upstreams.look()
        assert not upstreams.reachable
        await upstreams.aclose()

    asyncio.run(work())


def test_a_busy_server_that_answers_late_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Upstream([["x"]], forever=True)

    async def work() -> None:
        upstreams = Upstreams([late.client()])
        assert await upstreams.look() == []
        never = aiohttp.ClientTimeout(total=1e-6)
        monkeypatch.setattr("neurorit.serving.backends.openai_client._OF_LOOKS", never)
        assert await upstreams.look() == []
        assert upstreams.reachable
        monkeypatch.setattr("neurorit.serving.backends.pool._SILENT_SECONDS", 0.0)
        await asyncio.sleep(0.01)
        assert len(await upstreams.look()) == 1
        assert not upstreams.reachable
        await upstreams.aclose()

    asyncio.run(work())


def test_readiness_follows_the_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neurorit.serving.backends.backend._LOOK_SECONDS", 0.02)
    monkeypatch.setattr("neurorit.serving.backends.backend._LOOK_AGAIN_SECONDS", 0.01)
    upstream = Upstream([["x"]])
    told: list[str] = []

    async def until(phase: str) -> None:
        while told[-1:] != [phase]:
            await asyncio.sleep(0.01)

    async def work() -> None:
        system = System(checkpoint(tmp_path), urls=[upstream.url])
        await system.start(told.append)
        watching = asyncio.create_task(system.watch(told.append))
        async with asyncio.timeout(20):
            await until("ready")
            upstream.status = 503
            await until("waiting for the upstream servers")
            upstream.status = 200
            await until("ready")
        watching.cancel()
        await asyncio.wait([watching])
        await system.aclose()

    asyncio.run(work())


def test_a_server_that_takes_messages_only_is_asked_for_a_chat() -> None:
    upstream = Upstream([["Kar", "vel"], ["Karvel"]])

    async def work() -> None:
        messages = [{"role": "user", "content": "Where?"}]
        async with ChatClient(upstream.url, "k", "tiny") as client:
            for whole in (False, True):
                pieces = client.stream([1, 2], whole=whole, messages=messages)
                assert "".join([piece.text async for piece in pieces]) == "Karvel"
        for request in upstream.requests:
            assert request["messages"] == messages
            assert "prompt" not in request and "stop_token_ids" not in request

    asyncio.run(work())


def test_flags_for_vllm_beside_an_upstream_are_refused() -> None:
    with pytest.raises(BadInput, match="beside upstream"):
        ServeSettings(port=0, upstream=("http://x",), vllm_args=("--seed=1",))
    with pytest.raises(BadInput, match="'junk' is no flag"):
        ServeSettings(port=0, vllm_args=("junk",))
