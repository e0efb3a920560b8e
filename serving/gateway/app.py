"""The gateway's routes: OpenAI-compatible answers from retrieved passages, and the page.

It turns requests into pipeline calls and events into responses. It starts nothing: the pipelines
appear in `Gateway` when whoever runs the server has made them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles

from neurorit.core import __version__
from neurorit.core.endpoint.replies import CallFailed
from neurorit.core.errors import BadInput, NeuroritError
from neurorit.serving.backends.openai_client import Sampling
from neurorit.serving.gateway import schemas
from neurorit.serving.gateway.requests import (
    FIELDS,
    ChatRequest,
    CompareRequest,
    CompletionRequest,
    RagOptions,
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
from neurorit.serving.gateway.schemas import errors, stream_or
from neurorit.serving.metrics import CONTENT_TYPE, Metrics
from neurorit.serving.middleware.auth import Guard, StrictHeaders
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
from neurorit.serving.rag.pipeline import Event, Outcome, RagPipeline, Request
from neurorit.serving.settings import ServeSettings

PAGE = Path(__file__).parents[1] / "page"
_log = logging.getLogger("neurorit.serving")
_REFUSALS = errors(400, 401, 404, 413, 429, 500, 502, 503)


@dataclass
class Gateway:
    """What the routes serve: a model's name, the pipeline once there is one, and the phase.

    phase: `ready`, or a few words on what is still being done; shown by `/ready`. base_model, base,
    base_phase: a second system for comparisons, and its phase; history: earlier questions that a
    search sees too; digests: name of a model -> digest of all that its answers depend on, where
    that is known; max_tokens_limit: tokens of an answer that a request may ask for.
    """

    model: str
    phase: str = "starting"
    pipeline: RagPipeline | None = None
    base_model: str = ""
    base: RagPipeline | None = None
    base_phase: str = "ready"
    history: int = 0
    digests: dict[str, str] = field(default_factory=dict)
    max_tokens_limit: int = ServeSettings.max_tokens_limit
    metrics: Metrics = field(default_factory=Metrics)

    @property
    def ready(self) -> bool:
        """True when questions can be answered."""
        return self.pipeline is not None and self.phase == "ready"

    @property
    def base_ready(self) -> bool:
        """True when the second system can be asked."""
        return self.base is not None and self.base_phase == "ready"

    @property
    def models(self) -> list[str]:
        """Names of the models that can be asked."""
        return [self.model, *([self.base_model] if self.base_model else [])]


def create_app(
    gateway: Gateway,
    *,
    api_keys: Iterable[str] = (),
    requests_per_minute: int = 0,
    running: int = 64,
    queue: int = 16,
    patience: float = ServeSettings.queue_seconds,
    max_body: int = ServeSettings.max_body,
    hosts: Collection[str] | None = None,
) -> FastAPI:
    """The FastAPI application. With `api_keys`, all but health and the page asks for one of them.

    requests_per_minute: of one client, 0 for any number; running: requests answered at once;
    queue: requests that may wait; more are refused with 429; patience: seconds that one may wait;
    max_body: bytes of a request; hosts: where not None, the only names it answers to beside those
    of this machine.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        for pipeline in (gateway.pipeline, gateway.base):
            if pipeline is not None:
                pipeline.close()

    keys = frozenset(api_keys)
    app = FastAPI(
        title="neurorit-rag",
        version=__version__,
        description="Retrieval-augmented answers behind OpenAI's interface.",
        lifespan=lifespan,
        # The interactive pages load scripts from elsewhere, which the content policy forbids.
        docs_url=None,
        redoc_url=None,
    )
    schemas.describe(app, with_keys=bool(keys))
    # The last one added is the first to see a request: no key, no turn.
    app.add_middleware(
        Admission, running=running, queue=queue, patience=patience, metrics=gateway.metrics
    )
    app.add_middleware(RateLimit, per_minute=requests_per_minute)
    app.add_middleware(Guard, api_keys=keys, max_body=max_body)
    if hosts is not None:
        app.add_middleware(KnownHosts, allowed=hosts)
    app.add_middleware(Counting, metrics=gateway.metrics)
    app.add_middleware(StrictHeaders)
    install_error_bodies(app, FIELDS)

    @app.get("/health", responses={200: {"model": schemas.Health}})
    async def health() -> Response:
        """The gateway itself is up."""
        return _json({"status": "ok"})

    @app.get("/ready", responses={200: {"model": schemas.Ready}, 503: {"model": schemas.Ready}})
    async def ready() -> JSONResponse:
        """200 when questions can be answered, else 503 with the phase."""
        body = {
            "ready": gateway.ready,
            "phase": gateway.phase,
            "model": gateway.model,
            "base": gateway.base_model if gateway.base_ready else None,
            "base_phase": gateway.base_phase if gateway.base_model else None,
        }
        return JSONResponse(body, 200 if gateway.ready else 503)

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
        _check_model(gateway, name)
        return _json(_card(gateway, name))

    @app.post("/v1/retrieve", responses={200: {"model": schemas.RetrieveBody}, **_REFUSALS})
    async def retrieve(request: RetrieveRequest) -> Response:
        """The best passages for a query, with scores, without an answer."""
        hits = await _pipeline(gateway).retrieve(request.query, request.top_k, request.search())
        return _json({"query": request.query, "passages": passages_field(hits)})

    @app.post(
        "/v1/chat/completions",
        response_class=Response,
        responses={200: stream_or(schemas.ChatCompletion), **_REFUSALS},
    )
    async def chat(request: ChatRequest) -> Response:
        """An answer from retrieved passages, whole or streamed as server-sent events."""
        model, pipeline, asked = _asked(gateway, request, "messages")
        if not request.stream:
            outcome = await pipeline.answer(asked)
            return _json(completion(model, outcome), outcome)
        chunks = ChatChunks(model, with_usage=_with_usage(request))
        return await _streamed(pipeline, asked, chunks, with_usage=_with_usage(request))

    @app.post(
        "/v1/completions",
        response_class=Response,
        responses={200: stream_or(schemas.TextCompletion), **_REFUSALS},
    )
    async def text(request: CompletionRequest) -> Response:
        """As the chat, for OpenAI's older interface: the prompt is the question."""
        model, pipeline, asked = _asked(gateway, request, "prompt")
        if not request.stream:
            outcome = await pipeline.answer(asked)
            return _json(text_completion(model, outcome), outcome)
        chunks = TextChunks(model, with_usage=_with_usage(request))
        return await _streamed(pipeline, asked, chunks, with_usage=_with_usage(request))

    @app.post("/v1/rag/compare", responses={200: {"model": schemas.CompareBody}, **_REFUSALS})
    async def compared(request: CompareRequest) -> Response:
        """Base and tuned model on the same passages, with noise mixed in on request."""
        pipeline = _pipeline(gateway)
        if not gateway.base_model:
            text = "there is no second system to compare with; start the server with --base"
            raise ApiError(404, text, code="no_base_model")
        base = _pipeline(gateway, gateway.base_model)
        _check_tokens(gateway, request.max_tokens, "max_tokens")
        k = pipeline.top_k if request.top_k is None else request.top_k
        noise, search = dict(request.noise), request.search()
        hits = await mixed(pipeline, request.question, k, noise, request.seed, search)
        found = await compare(
            {"base": (gateway.base_model, base), "tuned": (gateway.model, pipeline)},
            request.question,
            hits,
            Sampling(max_tokens=request.max_tokens or pipeline.max_tokens),
        )
        return _json(comparison(request.question, found))

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
    digest = gateway.digests.get(name)
    return card | ({"neurorit": {"digest": digest}} if digest else {})


def _pipeline(gateway: Gateway, model: str | None = None) -> RagPipeline:
    """The pipeline of a model; one that is not ready does not stop the other."""
    if model and model == gateway.base_model and model != gateway.model:
        pipeline, phase, what = gateway.base, gateway.base_phase, f"the model {model!r}"
    else:
        pipeline, phase, what = gateway.pipeline, gateway.phase, "the server"
    if pipeline is None or phase != "ready":
        raise ApiError(
            503,
            f"{what} is not ready: {phase}",
            kind="server_error",
            code="not_ready",
            headers={"Retry-After": "5"},
        )
    return pipeline


def _check_tokens(gateway: Gateway, tokens: int | None, param: str) -> None:
    if tokens is not None and tokens > gateway.max_tokens_limit:
        most = gateway.max_tokens_limit
        raise ApiError(400, f"{param}: this server writes at most {most} tokens", param=param)


def _check_model(gateway: Gateway, name: str | None) -> None:
    if name is not None and name not in gateway.models:
        raise ApiError(
            404,
            f"the model {name!r} is not served here; this server has "
            + " and ".join(repr(known) for known in gateway.models),
            param="model",
            code="model_not_found",
        )


def _asked(
    gateway: Gateway, request: ChatRequest | CompletionRequest, param: str
) -> tuple[str, RagPipeline, Request]:
    """Who is asked what: the model's name, its pipeline, and the question with its settings."""
    model = request.model or gateway.model
    pipeline = _pipeline(gateway, model)
    _check_model(gateway, model)
    if not request.questions:
        raise ApiError(400, f"{param}: there is no question in a user message", param=param)
    named = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
    _check_tokens(gateway, request.asked_tokens, named)
    options = request.neurorit or RagOptions()
    earlier = gateway.history if options.history is None else options.history
    asked = Request(
        question=request.questions[-1],
        top_k=options.top_k,
        policy=options.policy,
        search=options.search(),
        sampling=request.sampling(pipeline.max_tokens),
        # The question first: where a search sees only so many words, those are of earlier ones.
        query="\n".join(request.questions[-1 - earlier :][::-1]),
        turns=tuple(request.turns),
    )
    return model, pipeline, asked


def _with_usage(request: ChatRequest | CompletionRequest) -> bool:
    return bool(request.stream_options and request.stream_options.include_usage)


async def _streamed(
    pipeline: RagPipeline, asked: Request, chunks: ChatChunks | TextChunks, *, with_usage: bool
) -> StreamingResponse:
    # The first two events are awaited here, so that a model that cannot be reached or refuses
    # the prompt is still answered with a proper status instead of a broken stream.
    events, started = pipeline.stream(asked), time.perf_counter()
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
