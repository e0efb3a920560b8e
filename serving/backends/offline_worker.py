"""The process that holds one vLLM engine for offline generation: JSON lines in, JSON lines out.

Started by `backends.offline`, never by a person. Imports are paid once; a job for another model
frees the engine and builds a new one.

Messages in: {"model", "prompts", "max_tokens", "stop_token_ids", "settings"}.
Messages out, by "event": `imported`, `engine` (seconds), `progress` (done, total), `result`
(completions as [text, token ids, finish reason]), `error` (message).
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

Emit = Callable[..., None]


class Engine:
    """At most one vLLM engine at a time, kept while the model stays the same."""

    def __init__(self) -> None:
        self._key: tuple[str, str] | None = None
        self._llm: Any = None

    def of(self, model: str, settings: dict[str, Any], emit: Emit) -> Any:
        """The engine of a model directory with vLLM engine arguments."""
        key = (model, json.dumps(settings, sort_keys=True))
        if key != self._key:
            self._free()
            started = time.perf_counter()
            from vllm import LLM

            self._llm = LLM(model=model, **settings)
            self._key = key
            emit("engine", seconds=time.perf_counter() - started, model=model)
        return self._llm

    def _free(self) -> None:
        """Let go of the engine's weights and key-value cache before the next one is built."""
        if self._llm is None:
            return
        self._llm, self._key = None, None
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        cleanup_dist_env_and_memory()
        gc.collect()


def run_job(engine: Engine, job: dict[str, Any], emit: Emit) -> None:
    """Generate greedily for every prompt of a job and emit the result."""
    from vllm import SamplingParams

    llm = engine.of(job["model"], job["settings"], emit)
    started = time.perf_counter()
    outputs = llm.generate(
        [{"prompt_token_ids": ids} for ids in job["prompts"]],
        SamplingParams(
            temperature=0.0,
            max_tokens=job["max_tokens"],
            stop_token_ids=job["stop_token_ids"],
            skip_special_tokens=True,
        ),
        use_tqdm=_progress_bars(emit),
    )
    first = [output.outputs[0] for output in outputs]
    emit(
        "result",
        seconds=time.perf_counter() - started,
        completions=[[c.text, list(c.token_ids), c.finish_reason] for c in first],
    )


def _progress_bars(emit: Emit) -> Callable[..., Any]:
    """In tqdm's place: vLLM wraps the prompts with it first, then counts completions with it."""

    def bar(iterable: Any = None, **keywords: Any) -> Any:
        return _Progress(keywords["total"], emit) if iterable is None else iterable

    return bar


class _Progress:
    """What vLLM asks of a progress bar, turned into messages, at most two a second."""

    def __init__(self, total: int, emit: Emit) -> None:
        self.n, self.postfix = 0, ""
        self._total, self._emit = total, emit
        self._started = self._told = time.perf_counter()

    @property
    def format_dict(self) -> dict[str, float]:
        return {"elapsed": max(time.perf_counter() - self._started, 1e-9)}

    def update(self, count: int = 1) -> None:
        self.n += count
        now = time.perf_counter()
        if now - self._told >= 0.5 or self.n >= self._total:
            self._told = now
            self._emit("progress", done=self.n, total=self._total)

    def refresh(self) -> None:
        """Nothing is drawn."""

    def close(self) -> None:
        """Nothing is held."""


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


def main() -> None:
    """Read jobs until the input closes."""
    # vLLM and its libraries print to stdout: keep the real one for messages, give them stderr.
    messages = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(event: str, **fields: Any) -> None:
        messages.write(json.dumps({"event": event, **fields}) + "\n")
        messages.flush()

    started = time.perf_counter()
    engine = Engine()
    try:
        import vllm  # noqa: F401

        emit("imported", seconds=time.perf_counter() - started)
    except Exception as error:
        traceback.print_exc()
        emit("error", message=_one_line(error))
        return
    for line in sys.stdin:
        try:
            run_job(engine, json.loads(line), emit)
        except Exception as error:
            traceback.print_exc()
            emit("error", message=_one_line(error))


if __name__ == "__main__":
    main()
