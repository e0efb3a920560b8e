"""Adapters of a running engine: added, replaced and taken away under requests that hold them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from neurorit.core.endpoint.replies import CallFailed
from neurorit.core.errors import BadInput
from neurorit.serving.backends.adapters import Adapters
from neurorit.serving.backends.backend import System
from neurorit.serving.backends.lora import Lora, read_lora
from tests.serving.loras import save_lora
from tests.serving.tiny_llama import save_tiny_llama


class Engine:
    """Notes what it holds; it refuses where it is told to."""

    def __init__(self) -> None:
        self.holds: list[str] = []
        self.broken = False
        self.seconds, self.loses_replies = 0.0, False

    async def load(self, lora: Lora) -> None:
        await asyncio.sleep(0)
        if self.broken:
            raise CallFailed("the language model answered 500", 500)
        if lora.served not in self.holds:
            self.holds.append(lora.served)
        await asyncio.sleep(self.seconds)
        if self.loses_replies:
            raise CallFailed("the language model took too long")

    async def unload(self, lora: Lora) -> None:
        await asyncio.sleep(0)
        if self.broken:
            raise CallFailed("the language model answered 500", 500)
        if lora.served in self.holds:
            self.holds.remove(lora.served)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def folders(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("loras")
    return [save_lora(place / str(seed), model, seed=seed) for seed in range(3)]


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 30))  # type: ignore[arg-type]


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_request_keeps_what_was_taken_away(model: Path, folders: list[Path]) -> None:
    async def work() -> None:
        engine = Engine()
        adapters = Adapters(model, engine, most=2)
        lora = await adapters.add("a", folders[0])
        with adapters.held("a") as held:
            await adapters.remove("a")
            await settle()
            assert (held.served, engine.holds) == (lora.served, [lora.served])
            assert "a" not in adapters
            with pytest.raises(KeyError), adapters.held("a"):
                pass
        await settle()
        assert engine.holds == []

    run(work)


def test_a_name_gets_other_weights_at_once_and_its_requests_keep_the_former(
    model: Path, folders: list[Path]
) -> None:
    async def work() -> None:
        engine = Engine()
        adapters = Adapters(model, engine, most=1)
        first = await adapters.add("a", folders[0])
        assert (await adapters.add("a", folders[0])).served == first.served
        assert engine.holds == [first.served]
        with adapters.held("a"):
            second = await adapters.add("a", folders[1])
            with adapters.held("a") as now:
                assert now == second
            await settle()
            assert engine.holds == [first.served, second.served]
        await settle()
        assert engine.holds == [second.served]

    run(work)


def test_one_that_comes_back_while_it_leaves_stays(model: Path, folders: list[Path]) -> None:
    async def work() -> None:
        engine = Engine()
        adapters = Adapters(model, engine, most=1)
        await adapters.add("a", folders[0])
        with adapters.held("a") as lora:
            await adapters.remove("a")
            await adapters.add("a", folders[0])
        await settle()
        assert (engine.holds, adapters.names) == ([lora.served], ["a"])

    run(work)


def test_one_whose_request_is_cut_is_added_all_the_same(model: Path, folders: list[Path]) -> None:
    async def work() -> None:
        engine = Engine()
        engine.seconds = 0.05
        adapters = Adapters(model, engine, most=1)
        adding = asyncio.create_task(adapters.add("a", folders[0]))
        while not engine.holds:
            await asyncio.sleep(0)
        adding.cancel()
        await asyncio.wait([adding])
        assert adding.cancelled()
        while adapters.names != ["a"]:
            await asyncio.sleep(0.01)
        lora = await adapters.add("a", folders[0])
        assert engine.holds == [lora.served]

    run(work)


def test_what_the_engine_keeps_is_taken_out_with_the_next_change(
    model: Path, folders: list[Path]
) -> None:
    async def work() -> None:
        engine = Engine()
        adapters = Adapters(model, engine, most=1)
        first = await adapters.add("a", folders[0])
        engine.broken = True
        await adapters.remove("a")
        await settle()
        assert engine.holds == [first.served]
        engine.broken = False
        second = await adapters.add("a", folders[1])
        assert engine.holds == [second.served]

    run(work)


def test_one_that_took_too_long_to_load_is_added_again_or_taken_out(
    model: Path, folders: list[Path]
) -> None:
    async def work() -> None:
        engine = Engine()
        adapters = Adapters(model, engine, most=2)
        engine.loses_replies = True
        for folder in folders[:2]:
            with pytest.raises(CallFailed):
                await adapters.add("a", folder)
        assert adapters.names == [] and len(engine.holds) == 1
        engine.loses_replies = False
        again = await adapters.add("a", folders[1])
        assert engine.holds == [again.served] and adapters.names == ["a"]

    run(work)


def test_vllm_that_is_as_it_is_wanted_already_is_no_failure(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = {
        "/v1/load_lora_adapter": CallFailed("'a@1' has already been loaded. If you want", 400),
        "/v1/unload_lora_adapter": CallFailed("'a@1' cannot be found.", 404),
    }

    class Refusing:
        async def command(self, path: str, body: object) -> None:
            raise replies[path]

    system = System(model, max_adapters=1)
    monkeypatch.setattr(system, "_own", Refusing())
    lora = Lora("a", model, 8, "1" * 64)

    async def work() -> None:
        await system.load(lora)
        await system.unload(lora)
        for path in replies:
            replies[path] = CallFailed("a conflict with a served base model", 400)
        for change in (system.load, system.unload):
            with pytest.raises(CallFailed, match="a conflict"):
                await change(lora)

    run(work)


def test_fifty_times_under_requests_leave_nothing_behind(model: Path, folders: list[Path]) -> None:
    async def work() -> None:
        engine = Engine()
        adapters = Adapters(model, engine, most=3)
        for number in range(50):
            await adapters.add("a", folders[number % 3])
            with adapters.held("a") as lora:
                assert lora.served in engine.holds
                if number % 2:
                    await adapters.remove("a")
        await adapters.add("a", folders[0])
        await settle()
        assert len(engine.holds) == 1

    run(work)


def test_more_than_there_is_room_for_is_refused_and_changes_nothing(
    model: Path, folders: list[Path], tmp_path: Path
) -> None:
    async def work() -> None:
        engine = Engine()
        adapters = Adapters(model, engine, [read_lora("a", folders[0], model)])
        with pytest.raises(BadInput, match="holds 1 adapters and takes no more"):
            await adapters.add("b", folders[1])
        wide = save_lora(tmp_path / "wide", model, rank=9)
        with pytest.raises(BadInput, match="rank 9, but this server made room for 8"):
            await adapters.add("a", wide)
        engine.broken = True
        with pytest.raises(CallFailed):
            await adapters.add("a", folders[1])
        assert adapters["a"].directory == folders[0]

    run(work)


def test_an_engine_that_starts_again_loads_what_is_served_now(
    model: Path, folders: list[Path], tmp_path: Path
) -> None:
    passing = save_lora(tmp_path / "passing", model, seed=9)

    async def work() -> None:
        adapters = Adapters(model, Engine(), [read_lora("a", folders[0], model)], most=3)
        await adapters.add("b", folders[1])
        await adapters.add("c", passing)
        await adapters.remove("a")
        save_lora(passing, model, seed=10)
        assert [lora.name for lora in adapters.at_start()] == ["b"]
        assert adapters.names == ["b"]

    run(work)
