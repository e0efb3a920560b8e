"""Offline generation: many greedy completions from one vLLM engine in a worker process.

The worker (`backends.offline_worker`) pays vLLM's imports once and then takes job after job, also
for other models: on CPU a second engine costs seconds where a second process costs a minute.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from neurorit.core.cores import physical_cores
from neurorit.core.errors import BadInput, NeuroritError
from neurorit.model.precision import stored_dtype
from neurorit.serving.backends.vllm_env import (
    check_model,
    context_length,
    require_vllm,
    short_context,
    start_failure,
    temporary_log,
    vllm_environment,
)

Progress = Callable[[int, int], None]
"""(completions done, completions asked for)"""

_LENGTH_STEP = 256


@dataclass(frozen=True)
class Completion:
    """What the model wrote: text without special tokens, its token ids, and why it ended.

    finish_reason: `stop` (end or stop token) or `length`. An immediate end gives an empty text.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str


class OfflineEngine:
    """A context manager around the worker; `generate` may name another model every time.

    dtype: vLLM's name of the number format (None: as the checkpoint is stored); max_model_len:
    prompt and answer together in tokens (None: what the prompts need); max_num_seqs: completions
    computed side by side; prefix_caching: reuse of equal prompt beginnings; threads: CPU threads
    (None: OMP_NUM_THREADS, or one a physical core); log: where vLLM's output goes (None: a
    temporary file, kept on failure); say: is told what a person should know.
    `timings` lists (what, seconds): `import`, `engine` and `generate`, in order.
    """

    def __init__(
        self,
        *,
        dtype: str | None = None,
        max_model_len: int | None = None,
        max_num_seqs: int = 128,
        prefix_caching: bool = False,
        threads: int | None = None,
        log: Path | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self._settings: dict[str, Any] = {
            "enforce_eager": True,
            "max_num_seqs": max_num_seqs,
            "enable_prefix_caching": prefix_caching,
            "disable_log_stats": True,
        }
        self._dtype = dtype
        self._max_model_len = max_model_len
        self._needed: dict[Path, int] = {}
        self._say = say or (lambda text: None)
        self._keep_log = log is not None
        self._log = Path(log) if log is not None else temporary_log()
        self._worker = _Worker(self._log, threads or _threads())

    @property
    def timings(self) -> list[tuple[str, float]]:
        """What the worker has spent its time on."""
        return self._worker.timings

    @property
    def ended(self) -> float:
        """When the completions that `stream` gave last had ended, by the clock `time.monotonic`."""
        return self._worker.ended

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if kind is None and not self._keep_log:
            self._log.unlink(missing_ok=True)

    def generate(
        self,
        model_dir: Path,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        stop_token_ids: Sequence[int] = (),
        progress: Progress | None = None,
    ) -> list[Completion]:
        """Greedy completions, one per prompt and in the same order; see `stream`."""
        completions: dict[int, Completion] = {}
        for ended in self.stream(
            model_dir, prompts, max_tokens=max_tokens, stop_token_ids=stop_token_ids
        ):
            completions |= dict(ended)
            if progress is not None:
                progress(len(completions), len(prompts))
        return [completions[at] for at in range(len(prompts))]

    def stream(
        self,
        model_dir: Path,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        stop_token_ids: Sequence[int] = (),
        dtype: str | None = None,
    ) -> Iterator[list[tuple[int, Completion]]]:
        """Greedy completions as they end: (number of the prompt, completion), those of one step
        together.

        Prompts are begun in the order they are given in. dtype: as in the constructor, for this
        model. The engine of the last model is kept until another model, another dtype, or longer
        prompts are asked for. Raises BadInput for a missing model or a prompt that does not fit,
        NeuroritError with the cause from vLLM's log when an engine fails.
        """
        directory = check_model(model_dir).resolve()
        if not prompts:
            return
        settings = {
            **self._settings,
            "dtype": dtype or self._dtype or stored_dtype(directory),
            "max_model_len": self._model_len(directory, max(map(len, prompts)) + max_tokens),
        }
        require_vllm()
        job = {
            "model": str(directory),
            "prompts": [list(ids) for ids in prompts],
            "max_tokens": max_tokens,
            "stop_token_ids": list(stop_token_ids),
            "settings": settings,
        }
        answered = 0
        try:
            for ended in self._worker.ask(job):
                answered += len(ended)
                yield ended
            if answered != len(prompts):
                raise NeuroritError(
                    f"vLLM gave {answered} answers to {len(prompts)} prompts of {directory} "
                    f"(whole log: {self._log})"
                )
        except BaseException as error:
            # A half-done job leaves an engine in an unknown state: the next call starts anew.
            self._keep_log |= isinstance(error, NeuroritError)
            self.close()
            raise

    def close(self) -> None:
        """End the worker; calling it again, or before any job, does nothing."""
        self._worker.close()

    def _model_len(self, directory: Path, needed: int) -> int:
        """Context length for the engine: stable from job to job, so that the engine can stay."""
        limit = context_length(directory)
        allowed = min(limit, self._max_model_len or limit)
        if needed > allowed:
            raise BadInput(
                f"a prompt with its answer needs {needed} tokens, but {directory} takes {allowed}; "
                "use fewer or shorter passages"
            )
        if self._max_model_len is not None:
            return allowed
        before = self._needed.get(directory, 0)
        longest = self._needed[directory] = max(needed, before)
        short = short_context(directory) or limit
        if longest <= short:
            limit = min(limit, short)
        elif before <= short:
            self._say(
                f"{directory}: a prompt with its answer needs {needed} tokens, more than the "
                f"{short} of short texts: vLLM takes its positions for long texts in all prompts"
            )
        return min(limit, -(-longest // _LENGTH_STEP) * _LENGTH_STEP)


def _threads() -> int:
    """One a physical core, unless the user has said how many."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdigit() and int(said) > 0 else physical_cores()


class _Worker:
    """One process of `neurorit.serving.backends.offline_worker`, started with its first job."""

    def __init__(self, log: Path, threads: int) -> None:
        self.timings: list[tuple[str, float]] = []
        self.ended = 0.0
        self._log = log
        self._threads = threads
        self._process: subprocess.Popen[str] | None = None

    def ask(self, job: dict[str, Any]) -> Iterator[list[tuple[int, Completion]]]:
        """The completions of a job with their numbers, as they end."""
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        # A worker that has died shows on its output just below, with its log.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
        for line in process.stdout:
            message = json.loads(line)
            match message["event"]:
                case "answers":
                    self.ended = message.get("ended", 0.0)
                    yield [
                        (at, Completion(text, tuple(ids), reason))
                        for at, text, ids, reason in message["answers"]
                    ]
                case "imported":
                    self.timings.append(("import", message["seconds"]))
                case "engine":
                    self.timings.append(("engine", message["seconds"]))
                case "error":
                    raise NeuroritError(
                        f"vLLM failed on {job['model']}: {message['message']} "
                        f"(whole log: {self._log})"
                    )
                case "done":
                    self.timings.append(("generate", message["seconds"]))
                    return
        raise start_failure(self._log, f"vLLM's process ended (status {process.wait()})")

    def close(self) -> None:
        """End the process and whatever it started."""
        process, self._process = self._process, None
        if process is None:
            return
        # It holds nothing that needs saving, and vLLM's own way out takes seconds.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _started(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        environment = vllm_environment() | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        # Without it vLLM computes on one thread in this mode, which is meant for serving.
        environment["OMP_NUM_THREADS"] = str(self._threads)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "neurorit.serving.backends.offline_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                text=True,
                encoding="utf-8",
                start_new_session=True,
            )
        return self._process
