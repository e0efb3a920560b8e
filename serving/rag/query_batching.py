"""Searches that come at the same moment go to the retriever together.

An encoder takes sixteen queries in little more time than one. While one search runs, queries
gather; none waits for others that have not come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from neurorit.serving.metrics import Metrics

Search = Callable[[list[str], Any], Awaitable[Sequence[Sequence[Any]]]]
MOST = 64


class SearchBatches:
    """Gathers queries for `search(queries, how)`; only those of an equal `how` go together."""

    def __init__(self, search: Search, metrics: Metrics | None = None) -> None:
        self._search = search
        self._metrics = metrics
        self._pending: list[tuple[str, Any, asyncio.Future[tuple[Any, ...]]]] = []
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
            try:
                found = await self._search([query for query, _, _ in alike], how)
            except Exception as error:
                for _, _, future in alike:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, _, future), hits in zip(alike, found, strict=True):
                if not future.done():
                    future.set_result(tuple(hits))
