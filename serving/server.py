"""Runs the gateway: loads the index, starts vLLM beside it, watches it, and ends both.

The gateway listens at once and says on `/ready` what is still missing. It knows nothing of routes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurorit.prompts import PromptTemplate
from retrieval.artifact import fingerprint_model, hash_inputs, read_manifest
from retrieval.errors import BadInput
from retrieval.search import SearchSettings
from serving.access import read_api_keys
from serving.app import Gateway, create_app
from serving.engine import require_free_port
from serving.pipeline import Policy, RagPipeline, Retriever
from serving.systems import System
from serving.upstreams import read_upstream_key

if TYPE_CHECKING:
    import uvicorn

Tell = Callable[[str], None]


@dataclass(frozen=True)
class ServeSettings:
    """Everything `neurorit-rag serve` can be told.

    host, port: where the gateway listens (port 0: a free one); top_k: passages in a prompt; policy:
    what follows an empty answer; max_tokens: of an answer, where a request names none;
    max_model_len: tokens of prompt and answer (None: the checkpoint's); served_name: the model's
    name for clients (None: the directory's); api_key_file: keys for `/v1/`, one a line; vllm_args:
    vLLM's own flags; vllm_log: where its output goes (None: a temporary file); upstream: addresses
    of running servers of the model, in place of an own vLLM; upstream_key_file: their key; base: a
    second system for comparisons, a checkpoint or the address of a running server; history:
    earlier questions that a search sees; requests_per_minute: of one client (0: any number);
    drain_seconds: how long a server that was told to end finishes what it has begun;
    search: how passages are found; ray: a cluster that holds the index (None: this process);
    running, queue: requests answered at once, and waiting at most.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    top_k: int = 4
    policy: Policy = "abstain"
    max_tokens: int = 64
    max_model_len: int | None = None
    served_name: str | None = None
    api_key_file: Path | None = None
    vllm_args: tuple[str, ...] = ()
    vllm_log: Path | None = None
    upstream: tuple[str, ...] = ()
    upstream_key_file: Path | None = None
    base: str | None = None
    history: int = 0
    requests_per_minute: int = 0
    drain_seconds: int = 60
    search: SearchSettings = field(default_factory=SearchSettings)
    ray: str | None = None
    running: int = 64
    queue: int = 16


def run_server(
    model: Path, index: Path, settings: ServeSettings | None = None, *, tell: Tell | None = None
) -> None:
    """Serve a checkpoint and an index until SIGINT or SIGTERM; requests in flight are finished.

    tell: is told phases and, when ready, the address. Raises BadInput for what cannot be used
    (before anything is started) and NeuroritError when vLLM does not start or keeps ending.
    """
    settings = settings or ServeSettings()
    read_manifest(index, "index", verify=False)

    with contextlib.ExitStack() as stack:

        def load() -> Retriever:
            from retrieval.search import Retriever as IndexRetriever

            _few_threads()
            if settings.ray is None:
                return IndexRetriever.load(index, settings.search)
            from retrieval.cluster import connected

            ray = stack.enter_context(connected(settings.ray))
            return IndexRetriever.on_cluster(ray, index, settings.search)

        serve(model, load, settings, tell=tell, searched=hash_inputs(index=index)["index"])


def serve(
    model: Path,
    load_retriever: Callable[[], Retriever],
    settings: ServeSettings,
    *,
    tell: Tell | None = None,
    searched: str = "",
) -> None:
    """As `run_server`, with any retriever; it is loaded while vLLM starts.

    searched: digest of what the retriever searches; without one `/v1/models` shows no digests.
    """
    say = tell or (lambda message: None)
    keys = read_api_keys(settings.api_key_file)
    if settings.port != 0:
        require_free_port(settings.host, settings.port, "--port")
    systems = _systems(model, settings)
    gateway = Gateway(model=systems[0].name, history=settings.history)
    running = _Running(gateway, systems, settings, load_retriever, say, searched)
    try:
        with _quiet_termination(), contextlib.suppress(KeyboardInterrupt):
            _run(running.run(keys))
    finally:
        for system in systems:
            system.stop()
    if running.failure is not None:
        raise running.failure


def _systems(model: Path, settings: ServeSettings) -> list[System]:
    """The model that answers and, where one is named, the one it is compared with."""
    key = read_upstream_key(settings.upstream_key_file)
    if settings.upstream and settings.vllm_args:
        raise BadInput("flags for vLLM go to an own vLLM; leave them out beside --upstream")
    if settings.vllm_args and not settings.vllm_args[0].startswith("-"):
        raise BadInput(f"{settings.vllm_args[0]!r} is no flag for vLLM; those stand after ` -- `")
    first = System(
        model,
        name=settings.served_name,
        urls=settings.upstream,
        key=key,
        option="--upstream",
        max_model_len=settings.max_model_len,
        vllm_args=settings.vllm_args,
        log=settings.vllm_log,
    )
    if settings.base is None:
        return [first]
    at_url = "://" in settings.base
    log = settings.vllm_log and settings.vllm_log.with_name(f"base-{settings.vllm_log.name}")
    second = System(
        model if at_url else Path(settings.base),
        name="base" if at_url else None,
        urls=(settings.base,) if at_url else (),
        key=key,
        option="--base",
        max_model_len=settings.max_model_len,
        vllm_args=settings.vllm_args,
        log=log,
    )
    if second.name == first.name:
        second.rename(f"{second.name}-base")
    return [first, second]


def answers_digest(model_dir: Path, searched: str, settings: ServeSettings) -> str:
    """Digest of all that an answer depends on beside the request: model, index, how both are used.

    searched: the index's digest. Returns 16 hexadecimal digits.
    """
    used = [settings.search, settings.vllm_args, settings.max_model_len, searched]
    text = repr([fingerprint_model(model_dir), *used])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Running:
    """One run of the gateway with its systems."""

    def __init__(
        self,
        gateway: Gateway,
        systems: list[System],
        settings: ServeSettings,
        load_retriever: Callable[[], Retriever],
        say: Tell,
        searched: str,
    ) -> None:
        self._searched = searched
        self.failure: Exception | None = None
        self._gateway = gateway
        self._systems = systems
        self._settings = settings
        self._load_retriever = load_retriever
        self._say = say
        self._phases: dict[str, str] = {}

    async def run(self, keys: frozenset[str]) -> None:
        """Listen, make everything ready beside it, and return when the server was told to end."""
        import uvicorn

        limits = {"running": self._settings.running, "queue": self._settings.queue}
        per_minute = self._settings.requests_per_minute
        app = create_app(self._gateway, api_keys=keys, requests_per_minute=per_minute, **limits)
        config = uvicorn.Config(
            app,
            host=self._settings.host,
            port=self._settings.port,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=self._settings.drain_seconds,
        )
        server = uvicorn.Server(config)
        work = asyncio.create_task(self._make_ready(server))
        try:
            await server.serve()
        finally:
            # A start that is still waiting for vLLM ends with it.
            for system in self._systems:
                system.stop()
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
            for system in self._systems:
                await system.aclose()

    async def _make_ready(self, server: uvicorn.Server) -> None:
        try:
            loaded = asyncio.to_thread(self._load_retriever)
            retriever, *_ = await asyncio.gather(loaded, self._start())
            pipelines = [
                await asyncio.to_thread(self._pipeline, retriever, system)
                for system in self._systems
            ]
            if len(pipelines) > 1:
                self._gateway.base, self._gateway.base_model = pipelines[1], self._systems[1].name
            if self._searched:
                self._gateway.digests = await asyncio.to_thread(self._digests)
            self._gateway.pipeline = pipelines[0]
            self._gateway.phase = "ready"
            self._say(f"ready: {_address(server, self._settings.host)}")
            async with asyncio.TaskGroup() as group:
                for system in self._systems:
                    group.create_task(system.watch(partial(self._watched, system)))
        except Exception as error:
            # Whatever it is, a gateway that can never be ready ends and says why.
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            self.failure = error
            self._gateway.phase = "failed"
            server.should_exit = True

    async def _start(self) -> None:
        # One after the other: two that start at once take twice the memory and no less time.
        for system in self._systems:
            await asyncio.to_thread(system.start, self._phase)

    def _pipeline(self, retriever: Retriever, system: System) -> RagPipeline:
        from transformers import AutoTokenizer

        return RagPipeline(
            retriever,
            AutoTokenizer.from_pretrained(system.model_dir),
            PromptTemplate.of_checkpoint(system.model_dir),
            system.generator,
            policy=self._settings.policy,
            top_k=self._settings.top_k,
            max_tokens=self._settings.max_tokens,
            context=self._settings.max_model_len or system.context,
            metrics=self._gateway.metrics,
        )

    def _digests(self) -> dict[str, str]:
        """For an own vLLM, whose weights are at hand."""
        return {
            system.name: answers_digest(system.model_dir, self._searched, self._settings)
            for system in self._systems
            if system.own
        }

    def _watched(self, system: System, phase: str) -> None:
        """One system's phase; the gateway is ready when all of them are."""
        self._phases[system.name] = phase
        self._phase(next((p for p in self._phases.values() if p != "ready"), "ready"))

    def _phase(self, phase: str) -> None:
        self._gateway.phase = phase
        self._say(phase)


def _run(work: Coroutine[Any, Any, None]) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


def _few_threads() -> None:
    """Leave the cores to the model: many threads for a few short queries only wait for each other.

    Threads that wait do so busily, and on a CPU take from vLLM what they do not use.
    """
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 4))
    # A thread that computes hands the interpreter over after 0.5 ms, not 5: requests do not wait.
    sys.setswitchinterval(0.0005)


def _address(server: uvicorn.Server, host: str) -> str:
    """Where the server listens, also when it chose the port itself."""
    port = server.servers[0].sockets[0].getsockname()[1]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


@contextlib.contextmanager
def _quiet_termination() -> Iterator[None]:
    """uvicorn raises SIGTERM again after its graceful end; vLLM is still to be ended then."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
