"""One run of the gateway: it listens at once, makes its systems ready beside that, ends them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurorit.core.artifact import hash_model
from neurorit.core.errors import NeuroritError
from neurorit.model.prompts import PromptTemplate
from neurorit.serving.backends.backend import System
from neurorit.serving.backends.pool import read_upstream_key
from neurorit.serving.gateway.app import Gateway, create_app
from neurorit.serving.middleware.trusted_hosts import is_loopback
from neurorit.serving.rag.pipeline import RagPipeline, Retriever
from neurorit.serving.settings import ServeSettings

if TYPE_CHECKING:
    import uvicorn

Tell = Callable[[str], None]
BASE_KEY_VARIABLE = "NEURORIT_BASE_KEY"  # of `--base URL`: the upstreams' key is for them alone
_log = logging.getLogger("neurorit.serving")


def systems_of(model: Path, settings: ServeSettings) -> list[System]:
    """The model that answers and, where one is named, the one it is compared with."""
    key = read_upstream_key(settings.upstream_key_file)
    first = System(
        model,
        name=settings.served_name,
        urls=settings.upstream,
        key=key,
        parameter="upstream",
        upstream_model=settings.upstream_model,
        upstream_api=settings.upstream_api,
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
        key=os.environ.get(BASE_KEY_VARIABLE, "").strip() if at_url else "",
        parameter="base",
        upstream_api=settings.upstream_api if at_url else "completions",
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
    text = repr([hash_model(model_dir), *used])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Running:
    """One run of the gateway with its systems."""

    def __init__(
        self,
        gateway: Gateway,
        systems: list[System],
        settings: ServeSettings,
        load_retriever: Callable[[], Retriever],
        say: Tell,
        searched: str = "",
    ) -> None:
        self._searched = searched
        self.failure: Exception | None = None
        self._gateway = gateway
        self._systems = systems
        self._settings = settings
        self._load_retriever = load_retriever
        self._say = say

    async def run(self, keys: frozenset[str]) -> None:
        """Listen, make everything ready beside it, and return when the server was told to end."""
        import uvicorn

        from neurorit.serving.gateway.connection_limits import bounded_connections

        app = create_app(
            self._gateway,
            api_keys=keys,
            requests_per_minute=self._settings.requests_per_minute,
            running=self._settings.running,
            queue=self._settings.queue,
            patience=self._settings.queue_seconds,
            max_body=self._settings.max_body,
            hosts=self._hosts(keys),
        )
        config = uvicorn.Config(
            app,
            host=self._settings.host,
            port=self._settings.port,
            log_level="warning",
            access_log=False,
            server_header=False,
            # A header that anybody can write says who asks only where a proxy of ours wrote it.
            proxy_headers=bool(self._settings.trusted_proxies),
            forwarded_allow_ips=list(self._settings.trusted_proxies),
            http=bounded_connections(
                self._settings.connections, self._settings.request_seconds, self._gateway.metrics
            ),
            ws="none",
            # Longer than clients and load balancers keep an idle connection: whoever closes first
            # must not be the one that is being asked.
            timeout_keep_alive=75,
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
            loading = asyncio.create_task(asyncio.to_thread(self._load_retriever))
            first, *others = self._systems
            # One after the other: two that start at once take twice the memory and no less time.
            await self._started(first, loading, self._first_phase)
            while not server.started:
                await asyncio.sleep(0.01)
            _keep_what_is_loaded()
            self._say(f"ready: {_address(server, self._settings.host)}")
            async with asyncio.TaskGroup() as group:
                group.create_task(first.watch(partial(self._watched, first, self._first_phase)))
                for system in others:
                    group.create_task(self._second(system, loading))
        except Exception as error:
            # Whatever it is, a gateway that can never be ready ends and says why.
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            self.failure = error
            self._gateway.phase = "failed"
            server.should_exit = True

    def _hosts(self, keys: frozenset[str]) -> tuple[str, ...] | None:
        """The names it answers to, where nothing but its place keeps others out; None: any."""
        if keys or not is_loopback(self._settings.host):
            return None
        return (self._settings.host, *self._settings.allowed_hosts)

    async def _second(self, system: System, loading: asyncio.Task[Retriever]) -> None:
        """Start and watch the system of comparisons; its failure stops no other."""
        try:
            await self._started(system, loading, self._base_phase)
            await system.watch(partial(self._watched, system, self._base_phase))
        except Exception as error:
            if not isinstance(error, NeuroritError):
                _log.exception("the system of comparisons failed")
            self._gateway.base_phase = "failed"
            self._say(f"{system.name} cannot be compared with: {error}")

    async def _started(self, system: System, loading: asyncio.Task[Retriever], tell: Tell) -> None:
        # Whichever fails ends the waiting for the other.
        starting = asyncio.create_task(system.start(tell))
        try:
            (retriever, tokenizer), _ = await asyncio.gather(
                _read(loading, system.model_dir), starting
            )
        except BaseException:
            system.stop()
            starting.cancel()
            raise
        pipeline = await asyncio.to_thread(self._pipeline, retriever, tokenizer, system)
        if self._searched and system.own:  # the weights are at hand
            digest = await asyncio.to_thread(
                answers_digest, system.model_dir, self._searched, self._settings
            )
            self._gateway.digests[system.name] = digest
        if system is self._systems[0]:
            self._gateway.pipeline, self._gateway.phase = pipeline, "ready"
        else:
            self._gateway.base = pipeline

    def _pipeline(self, retriever: Retriever, tokenizer: Any, system: System) -> RagPipeline:
        return RagPipeline(
            retriever,
            tokenizer,
            PromptTemplate.of_checkpoint(system.model_dir),
            system.generator,
            policy=self._settings.policy,
            top_k=self._settings.top_k,
            max_tokens=self._settings.max_tokens,
            context=system.context,
            metrics=self._gateway.metrics,
        )

    def _watched(self, system: System, tell: Tell, phase: str) -> None:
        first = system is self._systems[0]
        pipeline = self._gateway.pipeline if first else self._gateway.base
        if pipeline is not None:
            # A server that came later, or was started anew, may take less.
            pipeline.context = system.context
        tell(phase)

    def _first_phase(self, phase: str) -> None:
        if phase != self._gateway.phase:
            self._gateway.phase = _public(phase)
            self._say(phase)

    def _base_phase(self, phase: str) -> None:
        if phase != self._gateway.base_phase:
            self._gateway.base_phase = _public(phase)
            self._say(f"{self._gateway.base_model}: {phase}")


async def _read(loading: asyncio.Task[Retriever], model_dir: Path) -> tuple[Retriever, Any]:
    """The retriever and the tokenizer, while vLLM starts.

    One after the other: transformers fails to import in two threads at once.
    """
    retriever = await loading
    return retriever, await asyncio.to_thread(_load_tokenizer, model_dir)


def _load_tokenizer(model_dir: Path) -> Any:
    # Imported in the thread: torch takes seconds, in which the gateway is to answer on /ready.
    from neurorit.model.load import load_tokenizer

    return load_tokenizer(model_dir)


def _keep_what_is_loaded() -> None:
    """Leave what was loaded out of later garbage collections.

    torch and the index make some hundred thousand objects. Going through them stops all requests
    for a third of a second, every few thousand of them.
    """
    gc.collect()
    gc.freeze()


def _public(phase: str) -> str:
    """The phase without its cause, in which an address may stand."""
    return phase.partition(":")[0]


def _address(server: uvicorn.Server, host: str) -> str:
    """Where the server listens, also when it chose the port itself."""
    port = server.servers[0].sockets[0].getsockname()[1]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"
