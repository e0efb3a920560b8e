"""Searches that come at the same moment go to the retriever together.

An encoder takes sixteen queries in little more time than one. While one search runs, queries
gather; none waits for others that have not come, and none fails for another's text.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from neurorit.core.errors import BadInput, NeuroritError, is_out_of_memory
from neurorit.serving.metrics import Metrics

Search = Callable[[list[str], Any], Awaitable[Sequence[Sequence[Any]]]]
MOST = 64
_Asked = tuple[str, Any, asyncio.Future[tuple[Any, ...]]]


class SearchBatches:
    """Gathers queries for `search(queries, how)`; only those of an equal `how` go together."""

    def __init__(self, search: Search, metrics: Metrics | None = None) -> None:
        self._search = search
        self._metrics = metrics
        self._pending: list[_Asked] = []
        self._task: asyncio.Task[None] | None = None

    async def find(self, query: str, how: Any) -> tuple[Any, ...]:
        """What the search finds for a query; raises what the search raises."""
        future: asyncio.Future[tuple[Any, ...]] = asyncio.get_running_loop().create_future()
        self._pending.append((query, how, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        return await future

    async def _drain(self) -> None:
        while self._pending:
            how = self._pending[0][1]
            alike = [one for one in self._pending if one[1] == how][:MOST]
            self._pending = [one for one in self._pending if one not in alike]
            # A client that has gone needs no search any more.
            alike = [one for one in alike if not one[2].done()]
            if not alike:
                continue
            if self._metrics is not None:
                self._metrics.retrieved.observe(len(alike))
            await self._answer(alike, how)

    async def _answer(self, asked: list[_Asked], how: Any) -> None:
        """Search for all; where one may be at fault for a failure, that one alone is told so."""
        try:
            found = await self._search([query for query, _, _ in asked], how)
        except Exception as error:
            # What fails for every query alike, such as a server that is down, is asked once.
            for_all = isinstance(error, NeuroritError) and not isinstance(error, BadInput)
            if len(asked) > 1 and not for_all:
                half = len(asked) // 2
                await self._answer(asked[:half], how)
                await self._answer(asked[half:], how)
                return
            if is_out_of_memory(error):  # fewer at once were tried: it is no query's fault
                error = NeuroritError("the machine has no memory left to search with")
            for _, _, future in asked:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, _, future), hits in zip(asked, found, strict=True):
            if not future.done():
                future.set_result(tuple(hits))
