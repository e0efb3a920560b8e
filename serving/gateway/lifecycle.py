"""One run of the gateway: it listens at once, makes its systems ready beside that, ends them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import logging
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurorit.core.artifact import hash_model
from neurorit.core.errors import BadInput, NeuroritError
from neurorit.model.prompts import PromptTemplate
from neurorit.serving.backends.backend import System
from neurorit.serving.backends.pool import read_upstream_key
from neurorit.serving.gateway.app import create_app
from neurorit.serving.gateway.asking import Gateway
from neurorit.serving.middleware.auth import Keys, read_admin_key, read_api_keys
from neurorit.serving.middleware.trusted_hosts import is_loopback
from neurorit.serving.rag.pipeline import RagPipeline, Retriever
from neurorit.serving.settings import ServeSettings

if TYPE_CHECKING:
    import uvicorn

Tell = Callable[[str], None]
LoadRetriever = Callable[[Retriever | None], Retriever]
"""Loads what is to be searched; given the one before, it shares what has not changed."""
BASE_KEY_VARIABLE = "NEURORIT_BASE_KEY"  # of `--base URL`: the upstreams' key is for them alone
_SEARCH_SECONDS = 2.0
_ABSENT = "absent"
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
        adapters=settings.adapters,
        max_adapters=settings.max_adapters,
        max_adapter_rank=settings.max_adapter_rank,
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
    if second.name == first.name or (first.adapters and second.name in first.adapters):
        second.rename(f"{second.name}-base")
    return [first, second]


def answers_digest(model_dir: Path, searched: str, settings: ServeSettings) -> str:
    """Digest of all that an answer depends on beside the request: model, index, how both are used.

    searched: the index's digest. Returns 16 hexadecimal digits.
    """
    used = [
        settings.search,
        settings.min_score,
        settings.vllm_args,
        settings.max_model_len,
        searched,
    ]
    text = repr([hash_model(model_dir), *used])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Running:
    """One run of the gateway with its systems."""

    def __init__(
        self,
        gateway: Gateway,
        systems: list[System],
        settings: ServeSettings,
        load_retriever: LoadRetriever,
        say: Tell,
        generation: Callable[[], str] | None = None,
    ) -> None:
        self._generation = generation
        self._searched = ""
        self.failure: Exception | None = None
        self._gateway = gateway
        self._systems = systems
        self._settings = settings
        self._load_retriever = load_retriever
        self._say = say
        self._retriever: Retriever | None = None
        self._look_now = asyncio.Event()

    async def run(self, keys: Keys) -> None:
        """Listen, make everything ready beside it, and return when the server was told to end.

        On SIGHUP keys are read again, and the index where it was updated.
        """
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
            origins=self._settings.allowed_origins,
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
        server = _serving(config, self._gateway, self._settings.lame_duck_seconds, self._say)
        with contextlib.suppress(AttributeError, NotImplementedError):  # not on Windows
            hung_up = partial(self._hung_up, keys)
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hung_up)
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
            if self._generation is not None:
                self._searched = await asyncio.to_thread(self._generation)
            loading = asyncio.create_task(self._load())
            first, *others = self._systems
            # One after the other: two that start at once take twice the memory and no less time.
            await self._started(first, loading, self._first_phase)
            while not server.started:
                await asyncio.sleep(0.01)
            _keep_what_is_loaded()
            self._say(f"ready: {_address(server, self._settings.host)}")
            async with asyncio.TaskGroup() as group:
                group.create_task(self._try_search())
                group.create_task(self._follow_index())
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

    def _hung_up(self, keys: Keys) -> None:
        """Read the keys again, and look at the index; what cannot be read leaves what was."""
        self._look_now.set()
        try:
            api = read_api_keys(self._settings.api_key_file)
            keys.replace(api, read_admin_key(self._settings.admin_key_file))
            self._say(f"keys read again: {len(api)} of clients")
        except (BadInput, OSError) as error:
            self._say(f"the keys stay as they were: {error}")

    async def _try_search(self) -> None:
        """While searches fail, try one now and then: a balancer sends no request meanwhile."""
        while True:
            await asyncio.sleep(_SEARCH_SECONDS)
            pipeline = self._gateway.pipeline
            if pipeline is not None and pipeline.search_fails:
                with contextlib.suppress(Exception):  # it only asks whether searches work again
                    await pipeline.retrieve("?", 1)

    async def _follow_index(self) -> None:
        """Load an index that was updated beside the former one, and search in it from then on."""
        wait, seen = self._settings.index_seconds or None, self._searched
        while self._generation is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._look_now.wait()
            told = self._look_now.is_set()
            self._look_now.clear()
            try:
                now = await asyncio.to_thread(self._generation)
            except OSError as error:  # such as too many open files: the next look may see it
                self._say(f"the index cannot be looked at, the one in use stays: {error}")
                continue
            # Files that were damaged and put back have the same manifest: SIGHUP reads them again.
            pipeline = self._gateway.pipeline
            mended = told and pipeline is not None and pipeline.search_fails
            if now == _ABSENT or (now == seen and not mended):
                continue
            # One that cannot be used is tried again when it has changed again.
            seen = now
            try:
                await self._load()
            except Exception as error:
                # Whatever it is, there is an index to be searched.
                self._say(
                    f"the updated index cannot be used, the former one stays: {_cause(error)}"
                )
                continue
            await self._switch(now)

    async def _switch(self, generation: str) -> None:
        """Search in what was loaded, and tell of what the answers are from now on."""
        self._searched = generation
        assert self._retriever is not None
        pipelines = (self._gateway.pipeline, self._gateway.base)
        for pipeline in pipelines:
            if pipeline is not None:
                await pipeline.search_in(self._retriever)
        self._say("the index was updated: searches are in the new one")
        for system, pipeline in zip(self._systems, pipelines, strict=False):
            if pipeline is None or not system.own:
                continue
            # That of the former index would say that the answers are what they were.
            self._gateway.digests.pop(system.name, None)
            try:
                await self._tell_digest(system)
            except Exception as error:
                self._say(f"{system.name} is without a digest: {_cause(error)}")

    async def _load(self) -> None:
        # Held here alone, and by pipelines: a former one goes when its last search has ended.
        self._retriever = await asyncio.to_thread(self._load_retriever, self._retriever)

    async def _tell_digest(self, system: System) -> None:
        digest = await asyncio.to_thread(
            answers_digest, system.model_dir, self._searched, self._settings
        )
        self._gateway.digests[system.name] = digest

    def _hosts(self, keys: Keys) -> tuple[str, ...] | None:
        """The names it answers to, where nothing but its place keeps others out; None: any."""
        if keys.asked_for or not is_loopback(self._settings.host):
            return None
        return (self._settings.host, *self._settings.allowed_hosts)

    async def _second(self, system: System, loading: asyncio.Task[None]) -> None:
        """Start and watch the system of comparisons; its failure stops no other."""
        try:
            await self._started(system, loading, self._base_phase)
            await system.watch(partial(self._watched, system, self._base_phase))
        except Exception as error:
            if not isinstance(error, NeuroritError):
                _log.exception("the system of comparisons failed")
            self._gateway.base_phase = "failed"
            self._say(f"{system.name} cannot be compared with: {error}")

    async def _started(self, system: System, loading: asyncio.Task[None], tell: Tell) -> None:
        # Whichever fails ends the waiting for the other.
        starting = asyncio.create_task(system.start(tell))
        try:
            tokenizer, _ = await asyncio.gather(_read(loading, system.model_dir), starting)
        except BaseException:
            system.stop()
            starting.cancel()
            raise
        pipeline = await asyncio.to_thread(self._pipeline, tokenizer, system)
        if self._searched and system.own:  # the weights are at hand
            await self._tell_digest(system)
        if system is self._systems[0]:
            self._gateway.pipeline, self._gateway.phase = pipeline, "ready"
        else:
            self._gateway.base = pipeline

    def _pipeline(self, tokenizer: Any, system: System) -> RagPipeline:
        assert self._retriever is not None
        return RagPipeline(
            self._retriever,
            tokenizer,
            PromptTemplate.of_checkpoint(system.model_dir),
            system.generator,
            policy=self._settings.policy,
            top_k=self._settings.top_k,
            max_tokens=self._settings.max_tokens,
            context=system.context,
            metrics=self._gateway.metrics,
            of_vllm=system.of_vllm,
            min_score=self._settings.min_score,
        )

    def _watched(self, system: System, tell: Tell, phase: str) -> None:
        first = system is self._systems[0]
        pipeline = self._gateway.pipeline if first else self._gateway.base
        if pipeline is not None:
            # A server that came later, or was started anew, may take less.
            pipeline.context, pipeline.of_vllm = system.context, system.of_vllm
        tell(phase)

    def _first_phase(self, phase: str) -> None:
        if phase != self._gateway.phase:
            self._gateway.phase = _public(phase)
            self._say(phase)

    def _base_phase(self, phase: str) -> None:
        if phase != self._gateway.base_phase:
            self._gateway.base_phase = _public(phase)
            self._say(f"{self._gateway.base_model}: {phase}")


def _serving(
    config: uvicorn.Config, gateway: Gateway, lame_duck: float, say: Tell
) -> uvicorn.Server:
    """uvicorn's server; told to end, it goes on for a while in which /ready says that it ends."""
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            end = partial(super().handle_exit, sig, frame)
            if sig != signal.SIGTERM or lame_duck == 0 or gateway.leaving:
                end()
                return
            gateway.leaving = True
            loop.call_soon_threadsafe(loop.call_later, lame_duck, end)
            say(f"ending in {lame_duck:g} s")

    loop = asyncio.get_running_loop()
    return Server(config)


def _cause(error: Exception) -> str:
    """What to say of an error; the log has the trace of one that was not raised on purpose."""
    if not isinstance(error, (NeuroritError, OSError)):
        _log.error("an index that was updated:", exc_info=error)
    return str(error) or type(error).__name__


async def _read(loading: asyncio.Task[None], model_dir: Path) -> Any:
    """The tokenizer, once the retriever is loaded, while vLLM starts.

    One after the other: transformers fails to import in two threads at once.
    """
    await loading
    return await asyncio.to_thread(_load_tokenizer, model_dir)


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
