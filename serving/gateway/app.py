"""The gateway's routes: OpenAI-compatible answers from retrieved passages, and the page.

It turns requests into pipeline calls and events into responses. It starts nothing: the pipelines
appear in `Gateway` when whoever runs the server has made them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles

from neurorit.core import __version__
from neurorit.core.endpoint.replies import CallFailed
from neurorit.core.errors import BadInput, NeuroritError
from neurorit.serving.backends.openai_client import Sampling
from neurorit.serving.gateway import schemas
from neurorit.serving.gateway.adapters import adapter_routes
from neurorit.serving.gateway.asking import (
    Asked,
    Gateway,
    asked,
    check_model,
    check_tokens,
    pipeline_of,
)
from neurorit.serving.gateway.requests import (
    FIELDS,
    ChatRequest,
    CompareRequest,
    CompletionRequest,
    RetrieveRequest,
)
from neurorit.serving.gateway.responses import (
    ChatChunks,
    TextChunks,
    comparison,
    completion,
    passages_field,
    text_completion,
)
from neurorit.serving.gateway.responses_api import ResponsesRequest, responses_route
from neurorit.serving.gateway.schemas import errors, stream_or
from neurorit.serving.metrics import CONTENT_TYPE
from neurorit.serving.middleware.auth import Guard, Keys, StrictHeaders
from neurorit.serving.middleware.concurrency_limit import Admission
from neurorit.serving.middleware.errors import (
    ApiError,
    install_error_bodies,
    search_refusal,
    upstream_refusal,
)
from neurorit.serving.middleware.rate_limit import RateLimit
from neurorit.serving.middleware.request_metrics import Counting
from neurorit.serving.middleware.trusted_hosts import KnownHosts
from neurorit.serving.rag.compare import compare, mixed
from neurorit.serving.rag.pipeline import Event, Outcome, RagPipeline
from neurorit.serving.settings import ServeSettings

__all__ = ["Gateway", "create_app"]

PAGE = Path(__file__).parents[1] / "page"
_log = logging.getLogger("neurorit.serving")
_REFUSALS = errors(400, 401, 404, 413, 429, 500, 502, 503)


def create_app(
    gateway: Gateway,
    *,
    api_keys: Iterable[str] | Keys = (),
    requests_per_minute: int = 0,
    running: int = 64,
    queue: int = 16,
    patience: float = ServeSettings.queue_seconds,
    max_body: int = ServeSettings.max_body,
    hosts: Collection[str] | None = None,
    origins: Sequence[str] = (),
) -> FastAPI:
    """The FastAPI application. With `api_keys`, all but health and the page asks for one of them.

    requests_per_minute: of one client, 0 for any number; running: requests answered at once;
    queue: requests that may wait; more are refused with 429; patience: seconds that one may wait;
    max_body: bytes of a request; hosts: where not None, the only names it answers to beside those
    of this machine; origins: of web pages elsewhere whose scripts may ask.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        for pipeline in (gateway.pipeline, gateway.base):
            if pipeline is not None:
                pipeline.close()

    keys = api_keys if isinstance(api_keys, Keys) else Keys(api_keys)
    app = FastAPI(
        title="neurorit-rag",
        version=__version__,
        description="Retrieval-augmented answers behind OpenAI's interface.",
        lifespan=lifespan,
        # The interactive pages load scripts from elsewhere, which the content policy forbids.
        docs_url=None,
        redoc_url=None,
    )
    schemas.describe(app, with_keys=keys.asked_for)
    # The last one added is the first to see a request: no key, no turn.
    app.add_middleware(
        Admission, running=running, queue=queue, patience=patience, metrics=gateway.metrics
    )
    app.add_middleware(RateLimit, per_minute=requests_per_minute)
    app.add_middleware(Guard, keys=keys, max_body=max_body)
    if hosts is not None:
        app.add_middleware(KnownHosts, allowed=hosts)
    app.add_middleware(Counting, metrics=gateway.metrics)
    if origins:
        # Outside of what asks for keys: a browser asks without one whether it may ask.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Server-Timing", "Retry-After"],
            max_age=600,
        )
    app.add_middleware(StrictHeaders)
    install_error_bodies(app, FIELDS | set(ResponsesRequest.model_fields))

    @app.get("/health", responses={200: {"model": schemas.Health}})
    async def health() -> Response:
        """The gateway itself is up."""
        return _json({"status": "ok"})

    @app.get("/ready", responses={200: {"model": schemas.Ready}, 503: {"model": schemas.Ready}})
    async def ready() -> JSONResponse:
        """200 when questions can be answered, else 503 with the phase."""
        body = {
            "ready": gateway.state == "ready",
            "phase": gateway.state,
            "model": gateway.model,
            "base": gateway.base_model if gateway.base_ready else None,
            "base_phase": gateway.base_phase if gateway.base_model else None,
            "adapters": gateway.adapter_names,
        }
        return JSONResponse(body, 200 if body["ready"] else 503)

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(gateway.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/v1/models", responses={200: {"model": schemas.ModelList}, **errors(401, 429)})
    async def models() -> Response:
        """The models that are served: the first one answers where none is named."""
        cards = [_card(gateway, name) for name in gateway.models]
        return _json({"object": "list", "data": cards})

    @app.get(
        "/v1/models/{name:path}",
        responses={200: {"model": schemas.ModelCard}, **errors(401, 404, 429)},
    )
    async def model(name: str) -> Response:
        """One model, as OpenAI's `models.retrieve` asks for it."""
        check_model(gateway, name)
        return _json(_card(gateway, name))

    @app.post("/v1/retrieve", responses={200: {"model": schemas.RetrieveBody}, **_REFUSALS})
    async def retrieve(request: RetrieveRequest) -> Response:
        """The best passages for a query, with scores, without an answer."""
        hits = await pipeline_of(gateway).retrieve(request.query, request.top_k, request.search())
        return _json({"query": request.query, "passages": passages_field(hits)})

    @app.post(
        "/v1/chat/completions",
        response_class=Response,
        responses={200: stream_or(schemas.ChatCompletion), **_REFUSALS},
    )
    async def chat(request: ChatRequest) -> Response:
        """An answer from retrieved passages, whole or streamed as server-sent events."""
        asking = _asked(gateway, request, "messages")
        if not request.stream:
            outcome = await asking.answer()
            return _json(completion(asking.model, outcome), outcome)
        chunks = ChatChunks(asking.model, with_usage=_with_usage(request))
        return await _streamed(asking, chunks, with_usage=_with_usage(request))

    @app.post(
        "/v1/completions",
        response_class=Response,
        responses={200: stream_or(schemas.TextCompletion), **_REFUSALS},
    )
    async def text(request: CompletionRequest) -> Response:
        """As the chat, for OpenAI's older interface: the prompt is the question."""
        asking = _asked(gateway, request, "prompt")
        if not request.stream:
            outcome = await asking.answer()
            return _json(text_completion(asking.model, outcome), outcome)
        chunks = TextChunks(asking.model, with_usage=_with_usage(request))
        return await _streamed(asking, chunks, with_usage=_with_usage(request))

    @app.post("/v1/rag/compare", responses={200: {"model": schemas.CompareBody}, **_REFUSALS})
    async def compared(request: CompareRequest) -> Response:
        """Base and tuned model on the same passages, with noise mixed in on request."""
        systems = _compared(gateway, request.model)
        check_tokens(gateway, request.max_tokens, "max_tokens")
        _, pipeline = systems["tuned"]
        k = pipeline.top_k if request.top_k is None else request.top_k
        noise, search = dict(request.noise), request.search()
        hits = await mixed(pipeline, request.question, k, noise, request.seed, search)
        sampling = Sampling(max_tokens=request.max_tokens or pipeline.max_tokens)
        with ExitStack() as held:
            asking = {
                side: (name, answering, held.enter_context(gateway.written_by(name, sampling)))
                for side, (name, answering) in systems.items()
            }
            found = await compare(asking, request.question, hits)
        return _json(comparison(request.question, found))

    adapter_routes(app, gateway)
    responses_route(app, gateway)

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        """The web page."""
        return FileResponse(PAGE / "index.html", media_type="text/html; charset=utf-8")

    app.mount("/static", StaticFiles(directory=PAGE), name="static")
    return app


def _json(record: dict[str, Any], outcome: Outcome | None = None) -> Response:
    headers = _timing(outcome.retrieval_seconds) if outcome is not None else None
    return Response(orjson.dumps(record), media_type="application/json", headers=headers)


def _timing(retrieval_seconds: float) -> dict[str, str]:
    """Milliseconds, as browsers' developer tools show them beside a request."""
    return {"Server-Timing": f"retrieval;dur={1000 * retrieval_seconds:.2f}"}


def _card(gateway: Gateway, name: str) -> dict[str, Any]:
    card = {"id": name, "object": "model", "created": 0, "owned_by": "neurorit-rag"}
    if name in gateway.adapter_names:
        card["parent"] = gateway.model
    digest = gateway.digest(name)
    return card | ({"neurorit": {"digest": digest}} if digest else {})


def _asked(gateway: Gateway, request: ChatRequest | CompletionRequest, param: str) -> Asked:
    named = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
    check_tokens(gateway, request.asked_tokens, named)
    return asked(
        gateway,
        model=request.model,
        questions=request.questions,
        turns=request.turns,
        write=request.sampling,
        options=request.neurorit,
        param=param,
    )


def _compared(gateway: Gateway, model: str | None) -> dict[str, tuple[str, RagPipeline]]:
    """Who is compared: an adapter with its base, or the gateway's model with that of --base."""
    first = next(iter(gateway.adapter_names), None)
    adapter = model or (None if gateway.base_model else first)
    if adapter is not None and adapter != gateway.model:
        check_model(gateway, adapter)
        if adapter == gateway.base_model:
            raise ApiError(400, f"model: {adapter!r} is what is compared with", param="model")
        pipeline = pipeline_of(gateway)
        return {"base": (gateway.model, pipeline), "tuned": (adapter, pipeline)}
    if not gateway.base_model:
        text = (
            "there is no second system to compare with; start the server with --adapter or --base"
        )
        raise ApiError(404, text, code="no_base_model")
    return {
        "base": (gateway.base_model, pipeline_of(gateway, gateway.base_model)),
        "tuned": (gateway.model, pipeline_of(gateway)),
    }


def _with_usage(request: ChatRequest | CompletionRequest) -> bool:
    return bool(request.stream_options and request.stream_options.include_usage)


async def _streamed(
    asking: Asked, chunks: ChatChunks | TextChunks, *, with_usage: bool
) -> StreamingResponse:
    # The first two events are awaited here, so that a model that cannot be reached or refuses
    # the prompt is still answered with a proper status instead of a broken stream.
    events, started = asking.stream(), time.perf_counter()
    first = [await anext(events)]
    timing = _timing(time.perf_counter() - started)
    first.append(await anext(events))
    return StreamingResponse(
        _server_sent(first, events, chunks, with_usage=with_usage),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no", **timing},
    )


async def _server_sent(
    first: list[Event],
    rest: AsyncGenerator[Event, None],
    chunks: ChatChunks | TextChunks,
    *,
    with_usage: bool,
) -> AsyncIterator[bytes]:
    """Chunks as server-sent events; passages come first, the verdict with the last one."""
    try:
        async with aclosing(rest):
            for record in chunks.opening():
                yield _line(record)
            async for event in _joined(first, rest):
                yield _line(chunks.of(event))
                if isinstance(event, Outcome) and with_usage:
                    yield _line(chunks.usage(event))
    except CallFailed as error:
        yield _line(upstream_refusal(error).body)
        return
    except BadInput as error:
        yield _line(ApiError(400, str(error)).body)
        return
    except NeuroritError as error:
        yield _line(search_refusal(error).body)
        return
    except Exception:
        # The status is sent: only an event can still say that this is no whole answer.
        _log.exception("a stream failed")
        yield _line(ApiError(500, "the server failed; see its log", kind="server_error").body)
        return
    yield b"data: [DONE]\n\n"


async def _joined(first: list[Event], rest: AsyncIterator[Event]) -> AsyncIterator[Event]:
    for event in first:
        yield event
    async for event in rest:
        yield event


def _line(record: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(record) + b"\n\n"
