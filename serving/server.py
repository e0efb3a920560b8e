"""Runs the gateway: loads the index, starts vLLM beside it, watches it, and ends both.

The gateway listens at once and says on `/ready` what is still missing. It knows nothing of routes.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from neurorit.prompts import PromptTemplate
from retrieval.artifact import read_manifest
from retrieval.errors import NeuroritError
from retrieval.search import SearchSettings
from serving.access import read_api_keys
from serving.app import Gateway, create_app
from serving.client import CompletionClient
from serving.engine import VllmServer, require_free_port
from serving.pipeline import Policy, RagPipeline, Retriever
from serving.vllm_process import context_length

if TYPE_CHECKING:
    import uvicorn

Tell = Callable[[str], None]
_WATCH_SECONDS = 1.0
_RESTARTS = 3


@dataclass(frozen=True)
class ServeSettings:
    """Everything `neurorit-rag serve` can be told.

    host, port: where the gateway listens (port 0: a free one); top_k: passages in a prompt; policy:
    what follows an empty answer; max_tokens: of an answer, where a request names none;
    max_model_len: tokens of prompt and answer (None: the checkpoint's); served_name: the model's
    name for clients (None: the directory's); api_key_file: keys for `/v1/`, one a line; vllm_args:
    vLLM's own flags; vllm_log: where its output goes (None: a temporary file); search: how passages
    are found; running, queue: chats answered at once, and waiting at most.
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
    search: SearchSettings = field(default_factory=SearchSettings)
    running: int = 64
    queue: int = 64


def run_server(
    model: Path, index: Path, settings: ServeSettings | None = None, *, tell: Tell | None = None
) -> None:
    """Serve a checkpoint and an index until SIGINT or SIGTERM; requests in flight are finished.

    tell: is told phases and, when ready, the address. Raises BadInput for what cannot be used
    (before anything is started) and NeuroritError when vLLM does not start or keeps ending.
    """
    settings = settings or ServeSettings()
    read_manifest(index, "index", verify=False)

    def load() -> Retriever:
        from retrieval.search import Retriever as IndexRetriever

        return IndexRetriever.load(index, settings.search)

    serve(model, load, settings, tell=tell)


def serve(
    model: Path,
    load_retriever: Callable[[], Retriever],
    settings: ServeSettings,
    *,
    tell: Tell | None = None,
) -> None:
    """As `run_server`, with any retriever; it is loaded while vLLM starts."""
    say = tell or (lambda message: None)
    keys = read_api_keys(settings.api_key_file)
    if settings.port != 0:
        require_free_port(settings.host, settings.port, "--port")
    engine = VllmServer(
        model,
        max_model_len=settings.max_model_len,
        served_name=settings.served_name,
        extra_args=settings.vllm_args,
        log=settings.vllm_log,
    )
    gateway = Gateway(model=engine.model)
    running = _Running(gateway, engine, settings, load_retriever, say)
    try:
        with _quiet_termination(), contextlib.suppress(KeyboardInterrupt):
            asyncio.run(running.run(keys))
    finally:
        engine.stop()
    if running.failure is not None:
        raise running.failure


class _Running:
    """One run of the gateway with its engine."""

    def __init__(
        self,
        gateway: Gateway,
        engine: VllmServer,
        settings: ServeSettings,
        load_retriever: Callable[[], Retriever],
        say: Tell,
    ) -> None:
        self.failure: Exception | None = None
        self._gateway = gateway
        self._engine = engine
        self._settings = settings
        self._load_retriever = load_retriever
        self._say = say

    async def run(self, keys: frozenset[str]) -> None:
        """Listen, make everything ready beside it, and return when the server was told to end."""
        import uvicorn

        limits = {"running": self._settings.running, "queue": self._settings.queue}
        app = create_app(self._gateway, api_keys=keys, **limits)
        config = uvicorn.Config(
            app,
            host=self._settings.host,
            port=self._settings.port,
            log_level="warning",
            access_log=False,
            server_header=False,
        )
        server = uvicorn.Server(config)
        work = asyncio.create_task(self._make_ready(server))
        try:
            await server.serve()
        finally:
            # A start that is still waiting for vLLM ends with it.
            self._engine.stop()
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work

    async def _make_ready(self, server: uvicorn.Server) -> None:
        client = CompletionClient(self._engine.base_url, self._engine.api_key, self._engine.model)
        try:
            start = asyncio.to_thread(self._engine.start, self._phase)
            loaded = asyncio.to_thread(self._load_pipeline, client)
            _, pipeline = await asyncio.gather(start, loaded)
            self._gateway.pipeline = pipeline
            self._gateway.phase = "ready"
            self._say(f"ready: {_address(server, self._settings.host)}")
            await self._watch()
        except Exception as error:
            # Whatever it is, a gateway that can never be ready ends and says why.
            self.failure = error
            self._gateway.phase = "failed"
            server.should_exit = True
        finally:
            await client.aclose()

    async def _watch(self) -> None:
        """Start vLLM again when it ends by itself; give up after three times."""
        for _ in range(_RESTARTS):
            while self._engine.alive:
                await asyncio.sleep(_WATCH_SECONDS)
            self._gateway.phase = "restarting vLLM"
            self._say("vLLM ended by itself; starting it again")
            await asyncio.to_thread(self._engine.start)
            self._gateway.phase = "ready"
            self._say("ready again")
        while self._engine.alive:
            await asyncio.sleep(_WATCH_SECONDS)
        raise NeuroritError(f"vLLM ended {_RESTARTS + 1} times; see its log: {self._engine.log}")

    def _load_pipeline(self, client: CompletionClient) -> RagPipeline:
        from transformers import AutoTokenizer

        directory = self._engine.model_dir
        retriever = self._load_retriever()
        return RagPipeline(
            retriever,
            AutoTokenizer.from_pretrained(directory),
            PromptTemplate.of_checkpoint(directory),
            client,
            policy=self._settings.policy,
            top_k=self._settings.top_k,
            max_tokens=self._settings.max_tokens,
            context=self._settings.max_model_len or context_length(directory),
            metrics=self._gateway.metrics,
        )

    def _phase(self, phase: str) -> None:
        self._gateway.phase = phase
        self._say(phase)


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
