"""One served model: an own vLLM that is watched and started again, or servers that run already.

It knows nothing of retrieval, prompts or HTTP routes.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from neurorit.checkpoints import checkpoint_name
from retrieval.errors import NeuroritError
from serving.client import CompletionClient
from serving.engine import VllmServer
from serving.pipeline import Generator
from serving.upstreams import Upstreams, check_url, model_of
from serving.vllm_process import check_model, context_length

_WATCH_SECONDS = 1.0
_HEALTH_SECONDS = 5.0
_SICK = 3
_RESTARTS = 3
_RESTART_WINDOW = 600.0


class System:
    """A checkpoint and who answers for it.

    model_dir: the checkpoint, whose tokenizer and template are used also for servers elsewhere;
    name: for clients (None: the directory's); urls: running servers (empty: an own vLLM);
    key: theirs; option: the command line's name for them.
    """

    def __init__(
        self,
        model_dir: Path,
        *,
        name: str | None = None,
        urls: Sequence[str] = (),
        key: str = "",
        option: str = "--upstream",
        max_model_len: int | None = None,
        vllm_args: Sequence[str] = (),
        log: Path | None = None,
    ) -> None:
        self.model_dir = check_model(model_dir).resolve()
        self.name = name or checkpoint_name(model_dir)
        self._urls = tuple(check_url(url, option) for url in urls)
        self._key = key
        self._generator: Any = None
        self._engine: VllmServer | None = None
        if not self._urls:
            self._engine = VllmServer(
                model_dir,
                max_model_len=max_model_len,
                served_name=name,
                extra_args=vllm_args,
                log=log,
            )

    @property
    def generator(self) -> Generator:
        """Who writes the answers; only after `start`."""
        assert self._generator is not None
        generator: Generator = self._generator
        return generator

    @property
    def own(self) -> bool:
        """True where vLLM is started here, with the weights of `model_dir`."""
        return self._engine is not None

    @property
    def context(self) -> int:
        """Tokens of prompt and answer that the checkpoint was made for."""
        return context_length(self.model_dir)

    def rename(self, name: str) -> None:
        """Give it another name for clients; its engine keeps its own."""
        self.name = name

    def start(self, tell: Callable[[str], None]) -> None:
        """Start the own vLLM, or ask the servers for their model; blocks.

        Raises NeuroritError when they do not answer.
        """
        if self._engine is not None:
            self._engine.start(tell)
            engine = self._engine
            self._generator = CompletionClient(engine.base_url, engine.api_key, engine.model)
            return
        tell("looking for the upstream servers")
        names: dict[str, str] = {}
        failures: list[NeuroritError] = []
        for url in self._urls:
            try:
                names[url] = model_of(url, self._key)
            except NeuroritError as error:
                failures.append(error)
                tell(str(error))
        if not names:
            raise failures[0]
        # One that is down now has the others' model, and is asked when it is up again.
        usual = next(iter(names.values()))
        self._generator = Upstreams(
            [CompletionClient(url, self._key, names.get(url, usual)) for url in self._urls]
        )

    def stop(self) -> None:
        """End the own vLLM."""
        if self._engine is not None:
            self._engine.stop()

    async def aclose(self) -> None:
        """Close all connections."""
        if self._generator is not None:
            await self._generator.aclose()

    async def watch(self, tell: Callable[[str], None]) -> None:
        """Start the own vLLM again when it ends or is sick; tells `restarting vLLM` and `ready`.

        Returns at once for servers elsewhere. Raises NeuroritError when it ended four times within
        ten minutes.
        """
        engine = self._engine
        if engine is None:
            return
        ends: deque[float] = deque(maxlen=_RESTARTS + 1)
        while True:
            await self._until_down(engine)
            ends.append(time.monotonic())
            if len(ends) > _RESTARTS and ends[-1] - ends[0] < _RESTART_WINDOW:
                raise NeuroritError(
                    f"vLLM ended {_RESTARTS + 1} times within {_RESTART_WINDOW / 60:.0f} "
                    f"minutes; see its log: {engine.log}"
                )
            tell("restarting vLLM")
            await asyncio.to_thread(engine.start)
            tell("ready")

    @staticmethod
    async def _until_down(engine: VllmServer) -> None:
        sick, checked = 0, time.monotonic()
        while engine.alive and sick < _SICK:
            await asyncio.sleep(_WATCH_SECONDS)
            if time.monotonic() - checked >= _HEALTH_SECONDS:
                checked = time.monotonic()
                sick = 0 if await asyncio.to_thread(engine.healthy) else sick + 1
