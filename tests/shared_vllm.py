"""One process of vLLM for all offline engines of a test session: its imports are paid once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from neurorit.serving.backends.offline import Completion, _threads, _Worker
from neurorit.serving.backends.vllm_env import temporary_log


class SharedWorker(_Worker):
    """A worker that engines cannot close, but for one that leaves a job half done."""

    def __init__(self) -> None:
        super().__init__(temporary_log(), _threads())
        self._half_done = False

    def ask(self, job: dict[str, Any]) -> Iterator[list[tuple[int, Completion]]]:
        self._half_done = True
        yield from super().ask(job)
        self._half_done = False

    def close(self) -> None:
        if self._half_done:
            self.end()

    def end(self) -> None:
        super().close()
        self._half_done = False
