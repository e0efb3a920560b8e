"""Searches that go together: one client's text is no fault of the others'."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from neurorit.core.errors import BadInput, NeuroritError
from neurorit.serving.rag.query_batching import SearchBatches


@pytest.mark.parametrize("fault", [BadInput("refused"), RuntimeError("odd")])
def test_one_refused_text_fails_alone(fault: Exception) -> None:
    calls = 0

    async def search(queries: list[str], how: Any) -> list[list[str]]:
        nonlocal calls
        calls += 1
        if "bad" in queries:
            raise fault
        return [[query.upper()] for query in queries]

    async def body() -> None:
        batches = SearchBatches(search)
        asked = [f"q{i}" for i in range(31)]
        asked.insert(17, "bad")
        found = await asyncio.gather(
            *(batches.find(query, None) for query in asked), return_exceptions=True
        )
        for query, hits in zip(asked, found, strict=True):
            assert hits == (fault if query == "bad" else (query.upper(),))
        assert calls <= 1 + 2 * 5  # halves of 32

    asyncio.run(body())


def test_a_search_that_is_down_is_asked_once_for_all() -> None:
    calls = 0

    async def search(queries: list[str], how: Any) -> list[list[str]]:
        nonlocal calls
        calls += 1
        raise NeuroritError("down")

    async def body() -> None:
        batches = SearchBatches(search)
        found = await asyncio.gather(
            *(batches.find(str(i), None) for i in range(31)), return_exceptions=True
        )
        assert [str(error) for error in found] == ["down"] * 31
        assert calls == 1

    asyncio.run(body())


NO_MEMORY = (
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:98] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("std::bad_alloc"),
)


@pytest.mark.parametrize("fault", NO_MEMORY)
@pytest.mark.parametrize("room", [4, 0])
def test_without_memory_fewer_are_searched_at_once(fault: Exception, room: int) -> None:
    largest = 0

    async def search(queries: list[str], how: Any) -> list[list[str]]:
        nonlocal largest
        if len(queries) > room:
            raise fault
        largest = max(largest, len(queries))
        return [[query] for query in queries]

    async def body() -> None:
        batches = SearchBatches(search)
        asked = [f"q{i}" for i in range(32)]
        found = await asyncio.gather(
            *(batches.find(query, None) for query in asked), return_exceptions=True
        )
        if room:
            assert found == [(query,) for query in asked]
        else:
            assert all(type(error) is NeuroritError for error in found)
            assert "no memory left" in str(found[0])

    asyncio.run(body())
    assert largest == room
