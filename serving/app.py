"""The gateway's routes: OpenAI-compatible chat over retrieved passages, and the page.

It turns requests into pipeline calls and events into responses. It starts nothing: the pipeline
appears in `Gateway` when whoever runs the server has made it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles

from neurorit import __version__
from retrieval.errors import BadInput
from serving.access import ApiError, Guard, install_error_bodies, upstream_refusal
from serving.admission import Admission
from serving.client import UpstreamError
from serving.metrics import CONTENT_TYPE, Metrics
from serving.pipeline import Event, Outcome, RagPipeline, Request, Retrieved, Text
from serving.protocol import (
    ChatRequest,
    ChunkMaker,
    RetrieveRequest,
    completion,
    error_body,
    passages_field,
)

PAGE = Path(__file__).parent / "page"


@dataclass
class Gateway:
    """What the routes serve: a model's name, the pipeline once there is one, and the phase.

    phase: `ready`, or a few words on what is still being done; shown by `/ready`.
    """

    model: str
    phase: str = "starting"
    pipeline: RagPipeline | None = None
    metrics: Metrics = field(default_factory=Metrics)

    @property
    def ready(self) -> bool:
        """True when questions can be answered."""
        return self.pipeline is not None and self.phase == "ready"


def create_app(
    gateway: Gateway, *, api_keys: Iterable[str] = (), running: int = 64, queue: int = 64
) -> FastAPI:
    """The FastAPI application. With `api_keys`, all but health and the page asks for one of them.

    running: chats answered at once; queue: chats that may wait; more are refused with 429.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        if gateway.pipeline is not None:
            gateway.pipeline.close()

    app = FastAPI(
        title="neurorit-rag",
        version=__version__,
        description="Retrieval-augmented answers behind OpenAI's chat interface.",
        lifespan=lifespan,
        # The interactive pages load scripts from elsewhere, which the content policy forbids.
        docs_url=None,
        redoc_url=None,
    )
    # The last one added is the first to see a request: no key, no turn.
    app.add_middleware(Admission, running=running, queue=queue, metrics=gateway.metrics)
    app.add_middleware(Guard, api_keys=frozenset(api_keys))
    install_error_bodies(app)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """The gateway itself is up."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> JSONResponse:
        """200 when questions can be answered, else 503 with the phase."""
        body = {"ready": gateway.ready, "phase": gateway.phase, "model": gateway.model}
        return JSONResponse(body, 200 if gateway.ready else 503)

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(gateway.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model that is served."""
        model = {"id": gateway.model, "object": "model", "created": 0, "owned_by": "neurorit-rag"}
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        """One model, as OpenAI's `models.retrieve` asks for it."""
        _check_model(gateway, name)
        return {"id": name, "object": "model", "created": 0, "owned_by": "neurorit-rag"}

    @app.post("/v1/retrieve")
    async def retrieve(request: RetrieveRequest) -> dict[str, Any]:
        """The best passages for a query, with scores, without an answer."""
        hits = await _pipeline(gateway).retrieve(request.query, request.top_k)
        return {"query": request.query, "passages": passages_field(hits)}

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(request: ChatRequest) -> Response | dict[str, Any]:
        """An answer from retrieved passages, whole or streamed as server-sent events."""
        pipeline = _pipeline(gateway)
        _check_model(gateway, request.model)
        asked = _question(request, pipeline)
        if not request.stream:
            return completion(gateway.model, await pipeline.answer(asked))
        # The first two events are awaited here, so that a model that cannot be reached or refuses
        # the prompt is still answered with a proper status instead of a broken stream.
        events = pipeline.stream(asked)
        first = [await anext(events), await anext(events)]
        with_usage = bool(request.stream_options and request.stream_options.include_usage)
        chunks = ChunkMaker(gateway.model, with_usage=with_usage)
        return StreamingResponse(
            _server_sent(first, events, chunks, with_usage=with_usage),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        """The web page."""
        return FileResponse(PAGE / "index.html", media_type="text/html; charset=utf-8")

    app.mount("/static", StaticFiles(directory=PAGE), name="static")
    return app


def _pipeline(gateway: Gateway) -> RagPipeline:
    if gateway.pipeline is None or not gateway.ready:
        raise ApiError(
            503,
            f"the server is not ready: {gateway.phase}",
            kind="server_error",
            code="not_ready",
            headers={"Retry-After": "5"},
        )
    return gateway.pipeline


def _check_model(gateway: Gateway, name: str | None) -> None:
    if name is not None and name != gateway.model:
        raise ApiError(
            404,
            f"the model {name!r} is not served here; this server has {gateway.model!r}",
            param="model",
            code="model_not_found",
        )


def _question(request: ChatRequest, pipeline: RagPipeline) -> Request:
    if not request.question:
        raise ApiError(400, "messages: there is no question in a user message", param="messages")
    return Request(
        question=request.question,
        top_k=request.neurorit.top_k,
        policy=request.neurorit.policy,
        sampling=request.sampling(pipeline.max_tokens),
    )


async def _server_sent(
    first: list[Event],
    rest: AsyncGenerator[Event, None],
    chunks: ChunkMaker,
    *,
    with_usage: bool,
) -> AsyncIterator[str]:
    """Chunks as server-sent events; passages come first, the verdict with the last one."""
    try:
        async with aclosing(rest):
            yield _line(chunks.delta({"role": "assistant", "content": ""}))
            for event in first:
                yield _line(_chunk(chunks, event))
            async for event in rest:
                yield _line(_chunk(chunks, event))
                if isinstance(event, Outcome) and with_usage:
                    yield _line(chunks.usage(event))
    except UpstreamError as error:
        yield _line(upstream_refusal(error).body)
        return
    except BadInput as error:
        yield _line(error_body(str(error), "invalid_request_error"))
        return
    yield "data: [DONE]\n\n"


def _chunk(chunks: ChunkMaker, event: Event) -> dict[str, Any]:
    if isinstance(event, Retrieved):
        return chunks.delta({}, {"passages": passages_field(event.hits)})
    if isinstance(event, Text):
        return chunks.delta({"content": event.text})
    return chunks.last(event)


def _line(record: dict[str, Any]) -> str:
    return f"data: {json.dumps(record, ensure_ascii=False)}\n\n"
