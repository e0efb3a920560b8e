"""Serve a checkpoint and an index: the gateway with its vLLM, until the process is told to end.

It checks what it was told, loads the index and minds signals; `gateway.lifecycle` does the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from neurorit.core.artifact import hash_inputs, read_manifest
from neurorit.serving.backends.vllm_server import require_free_port
from neurorit.serving.gateway.asking import Gateway, Support
from neurorit.serving.gateway.connection_limits import allow_many
from neurorit.serving.gateway.lifecycle import LoadRetriever, Running, systems_of
from neurorit.serving.middleware.auth import Keys, read_admin_key, read_api_keys
from neurorit.serving.middleware.trusted_hosts import is_loopback
from neurorit.serving.rag.pipeline import Retriever
from neurorit.serving.rag.threads import few_threads
from neurorit.serving.settings import ServeSettings

__all__ = ["ServeSettings", "run_server", "serve"]

Tell = Callable[[str], None]


def run_server(
    model: Path,
    index: Path,
    settings: ServeSettings | None = None,
    *,
    tell: Tell | None = None,
    support: Support | None = None,
) -> None:
    """Serve a checkpoint and an index until SIGINT or SIGTERM; requests in flight are finished.

    tell: is told phases and, when ready, the address; support: a judge of the answers' sentences
    (`Gateway`). Raises BadInput for what cannot be used
    (before anything is started) and NeuroritError when vLLM does not start or keeps ending.
    """
    settings = settings or ServeSettings()
    from neurorit.retrieval.index.index import beside_updates

    beside_updates(index, lambda: read_manifest(index, "index", verify=False))

    with contextlib.ExitStack() as stack:

        def load(before: Retriever | None) -> Retriever:
            from neurorit.retrieval.index.index import Index
            from neurorit.retrieval.retriever import Retriever as IndexRetriever

            few_threads()
            if settings.ray is None:
                encoder = before.index.encoder if isinstance(before, IndexRetriever) else None
                found = Index.load(
                    index,
                    encoder=encoder,
                    effort=settings.search.effort or None,
                    in_memory=settings.in_memory,
                )
                if (hurry := getattr(found.encoder, "hurry", None)) is not None:
                    hurry()  # somebody waits for each search
                return IndexRetriever.load(found, settings.search)
            from neurorit.retrieval.ray_cluster import connected

            ray = stack.enter_context(connected(settings.ray))
            return IndexRetriever.on_cluster(ray, index, settings.search)

        def generation() -> str:
            return hash_inputs(index=index)["index"]

        # Segments in the actors of a cluster are loaded once.
        serve(
            model,
            load,
            settings,
            tell=tell,
            generation=generation if not settings.ray else None,
            support=support,
        )


def serve(
    model: Path,
    load_retriever: LoadRetriever,
    settings: ServeSettings,
    *,
    tell: Tell | None = None,
    generation: Callable[[], str] | None = None,
    support: Support | None = None,
) -> None:
    """As `run_server`, with any retriever; it is loaded while vLLM starts.

    generation: digest of what there is to be searched now; when it changes, the retriever is loaded
    again. Without, `/v1/models` shows no digests.
    """
    say = tell or (lambda message: None)
    keys = Keys(read_api_keys(settings.api_key_file), read_admin_key(settings.admin_key_file))
    if not keys.asked_for and not is_loopback(settings.host):
        say(
            f"warning: {settings.host} can be reached from elsewhere and no key is asked for: "
            "give --api-key-file or NEURORIT_API_KEYS"
        )
    if settings.port != 0:
        require_free_port(settings.host, settings.port, "port")
    room = allow_many() - settings.running  # one upstream for each chat
    if settings.connections > room:
        say(
            f"warning: --connections {settings.connections}: the system lets this process hold "
            f"{max(16, room)}; raise its limit of open files (`ulimit -n`)"
        )
        settings = replace(settings, connections=max(16, room))
    systems = systems_of(model, settings)
    gateway = Gateway(
        model=systems[0].name,
        base_model=systems[1].name if len(systems) > 1 else "",
        base_phase="waiting for its turn to start",
        adapters=systems[0].adapters,
        history=settings.history,
        max_tokens_limit=settings.max_tokens_limit,
        support=support,
    )
    running = Running(gateway, systems, settings, load_retriever, say, generation)
    try:
        with _quiet_termination(), contextlib.suppress(KeyboardInterrupt):
            _run(running.run(keys))
    finally:
        for system in systems:
            system.stop()
    if running.failure is not None:
        raise running.failure


def _run(work: Coroutine[Any, Any, None]) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


@contextlib.contextmanager
def _quiet_termination() -> Iterator[None]:
    """uvicorn raises SIGTERM again after its graceful end; vLLM is still to be ended then."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
