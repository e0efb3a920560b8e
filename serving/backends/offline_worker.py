"""The process that holds one vLLM engine for offline generation: JSON lines in, JSON lines out.

Started by `backends.offline`, never by a person. Imports are paid once; a job for another model
frees the engine and builds a new one.

Messages in: {"model", "prompts", "max_tokens", "stop_token_ids", "settings"}.
Messages out, by "event": `imported`, `engine` (seconds), `answers` (each as [number of its prompt,
text, token ids, finish reason], and when they ended by the machine's clock), `done` (seconds),
`error` (message).
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections import deque
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
    """Generate greedily for every prompt of a job; answers are emitted in the step they end in."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    core = engine.of(job["model"], job["settings"], emit).llm_engine
    started = time.perf_counter()
    asked = SamplingParams(
        temperature=0.0,
        max_tokens=job["max_tokens"],
        stop_token_ids=job["stop_token_ids"],
        skip_special_tokens=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    waiting = deque(enumerate(job["prompts"]))
    # Enough that the next batch is always full, and no more: requests take memory.
    ahead = 2 * int(job["settings"]["max_num_seqs"])
    while waiting or core.has_unfinished_requests():
        while waiting and core.get_num_unfinished_requests() < ahead:
            at, ids = waiting.popleft()
            core.add_request(str(at), {"prompt_token_ids": ids}, asked)
        ended = [output for output in core.step() if output.finished]
        answers = [(int(output.request_id), output.outputs[0]) for output in ended]
        if answers:
            emit(
                "answers",
                ended=time.monotonic(),
                answers=[[at, c.text, list(c.token_ids), c.finish_reason] for at, c in answers],
            )
    emit("done", seconds=time.perf_counter() - started)


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
