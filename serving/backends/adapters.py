"""The adapters of one engine by name: added, replaced and taken away while requests run.

It knows an engine that loads and unloads; nothing of processes or HTTP. A request keeps the weights
that it began with: they leave the engine when the last one that uses them has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from neurorit.core.endpoint.replies import CallFailed
from neurorit.core.errors import BadInput
from neurorit.serving.backends.lora import Lora, rank_limit, read_lora

_Made = TypeVar("_Made")
_log = logging.getLogger("neurorit.serving")


class LoraEngine(Protocol):
    """Who holds the weights; both raise CallFailed where it does not.

    To load what it holds, and to unload what it does not, is no failure.
    """

    async def load(self, lora: Lora) -> None: ...
    async def unload(self, lora: Lora) -> None: ...


@dataclass
class _Loaded:
    lora: Lora
    running: int = 0
    leaving: bool = False


class Adapters:
    """The adapters that an engine with the weights of `model_dir` serves.

    named: those that it starts with; most: how many there may be at once (at least those); rank:
    the largest that it makes room for (0: that of those named).
    """

    def __init__(
        self,
        model_dir: Path,
        engine: LoraEngine,
        named: Sequence[Lora] = (),
        *,
        most: int = 0,
        rank: int = 0,
    ) -> None:
        self.most = max(most, len(named))
        self.rank = rank_limit([lora.rank for lora in named] + ([rank] if rank else []))
        self._model_dir = model_dir
        self._engine = engine
        self._current = {lora.name: _Loaded(lora) for lora in named}
        self._leaving: dict[str, _Loaded] = {}
        self._changing = asyncio.Lock()
        # What nobody is served, and the engine may hold all the same.
        self._unwanted: dict[str, Lora] = {}
        self._changes: set[asyncio.Task[Any]] = set()

    @property
    def names(self) -> list[str]:
        """Names that can be asked for, in the order they came."""
        return list(self._current)

    def __contains__(self, name: object) -> bool:
        return name in self._current

    def __getitem__(self, name: str) -> Lora:
        return self._current[name].lora

    def at_start(self) -> list[Lora]:
        """What an engine that starts is to load; one whose folder has changed is dropped."""
        for name, held in list(self._current.items()):
            if not held.lora.unchanged():
                _log.warning("the adapter %s is dropped: its folder has changed or gone", name)
                del self._current[name]
        # What only runs to its end ended with the engine before.
        self._leaving.clear()
        self._unwanted.clear()
        return [held.lora for held in self._current.values()]

    @contextlib.contextmanager
    def held(self, name: str) -> Iterator[Lora]:
        """Keep an adapter in the engine for the time of a request; raises KeyError for none."""
        loaded = self._current[name]
        loaded.running += 1
        try:
            yield loaded.lora
        finally:
            loaded.running -= 1
            self._let_go(loaded)

    async def add(self, name: str, directory: Path) -> Lora:
        """Load an adapter and serve it under a name, in place of one that has the name already.

        Raises BadInput for one that cannot be served here, CallFailed where the engine fails; then
        everything is as it was. It is done to its end also where the caller is cancelled: so is it
        in the engine.
        """
        lora = await asyncio.to_thread(read_lora, name, directory, self._model_dir)
        return await asyncio.shield(self._task(self._add(name, lora)))

    async def _add(self, name: str, lora: Lora) -> Lora:
        async with self._changing:
            if lora.rank > self.rank:
                raise BadInput(
                    f"‹adapter={name}›: rank {lora.rank}, but this server made room for "
                    f"{self.rank}: start it with ‹max_adapter_rank={lora.rank}›"
                )
            before = self._current.get(name)
            if before is None and len(self._current) >= self.most:
                raise BadInput(
                    f"‹adapter={name}›: this server holds {len(self._current)} adapters and takes "
                    f"no more: remove one, or start it with a larger ‹max_adapters›"
                )
            if before is not None and before.lora.digest == lora.digest:
                return before.lora
            loaded = self._leaving.pop(lora.served, None)
            if loaded is None:
                await self._load(lora)
                loaded = _Loaded(lora)
            loaded.leaving = False
            self._current[name] = loaded
            if before is not None:
                self._leave(before)
            return lora

    async def remove(self, name: str) -> None:
        """Serve it to no new request; raises KeyError for a name that is not served."""
        async with self._changing:
            self._leave(self._current.pop(name))

    def _leave(self, loaded: _Loaded) -> None:
        loaded.leaving = True
        self._leaving[loaded.lora.served] = loaded
        self._let_go(loaded)

    def _let_go(self, loaded: _Loaded) -> None:
        if loaded.leaving and not loaded.running:
            self._task(self._unload(loaded))

    async def _unload(self, loaded: _Loaded) -> None:
        async with self._changing:
            # It may have been asked for, or added again, in the meantime.
            if self._leaving.get(loaded.lora.served) is not loaded or loaded.running:
                return
            del self._leaving[loaded.lora.served]
            self._unwanted[loaded.lora.served] = loaded.lora
            await self._clear()

    async def _load(self, lora: Lora) -> None:
        self._unwanted.pop(lora.served, None)
        await self._clear()
        try:
            await self._engine.load(lora)
        except CallFailed:
            self._unwanted[lora.served] = lora  # what took too long may be there all the same
            raise

    async def _clear(self) -> None:
        """Take out of the engine what nobody is served; what it keeps goes with the next change."""
        for lora in list(self._unwanted.values()):
            try:
                await self._engine.unload(lora)
                self._unwanted.pop(lora.served, None)
            except CallFailed as error:
                _log.warning("the adapter %s stays in the engine for now: %s", lora.name, error)

    def _task(self, work: Coroutine[Any, Any, _Made]) -> asyncio.Task[_Made]:
        task = asyncio.get_running_loop().create_task(work)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return task
