"""OpenAI's `/v1/responses`: the same answers in its newer form, whole or as its events.

Nothing is kept between requests: previous turns come in the request's `input`.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any, Literal

import orjson
from fastapi import FastAPI
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from neurorit.core.endpoint.replies import CallFailed
from neurorit.core.errors import BadInput, NeuroritError
from neurorit.serving.backends.openai_client import Sampling
from neurorit.serving.gateway import schemas
from neurorit.serving.gateway.asking import Asked, Gateway, asked, check_tokens
from neurorit.serving.gateway.requests import (
    IGNORED,
    REFUSED_FORM,
    Content,
    OfVllm,
    Question,
    RagOptions,
    Text,
)
from neurorit.serving.gateway.responses import passages_field, verdict_field
from neurorit.serving.gateway.schemas import errors, stream_or
from neurorit.serving.gateway.structured import check_schema
from neurorit.serving.middleware.errors import ApiError, search_refusal, upstream_refusal
from neurorit.serving.rag.pipeline import Event, Outcome, Retrieved
from neurorit.serving.rag.pipeline import Text as Written
from neurorit.serving.rag.prompt_budget import Turn

_log = logging.getLogger("neurorit.serving")
_REFUSALS = errors(400, 401, 404, 413, 429, 500, 502, 503)


class InputPart(BaseModel):
    """A part of a turn; only text can be answered."""

    type: Literal["input_text", "output_text", "text"]
    text: Content

    @model_validator(mode="before")
    @classmethod
    def _is_text(cls, part: Any) -> Any:
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and not kind.endswith("text"):
            raise ValueError(f"a part of type {kind[:40]!r} cannot be read: this server reads text")
        return part


class InputItem(BaseModel):
    """A turn of the chat; an answer of this server may be sent back as it came."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Content | Annotated[list[InputPart], Field(max_length=100)]

    @model_validator(mode="before")
    @classmethod
    def _is_message(cls, item: Any) -> Any:
        kind = item.get("type", "message") if isinstance(item, dict) else None
        if isinstance(kind, str) and kind != "message":
            raise ValueError(f"an item of type {kind[:40]!r} cannot be read, only messages can")
        return item

    @property
    def turn(self) -> Turn:
        """The same for the pipeline."""
        parts = self.content if isinstance(self.content, list) else None
        text = self.content if parts is None else "\n".join(part.text for part in parts)
        assert isinstance(text, str)
        return Turn("system" if self.role == "developer" else self.role, text.strip())


class TextForm(BaseModel):
    """The form of an answer: free text, JSON, or JSON of a schema."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[Text, Field(max_length=100)] | None = None
    description: Annotated[Text, Field(max_length=2000)] | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> TextForm:
        if (self.type == "json_schema") != (self.schema_ is not None):
            raise ValueError("schema belongs to the type `json_schema`, and only to it")
        if self.schema_ is not None:
            check_schema(self.schema_)
        return self

    @property
    def as_response_format(self) -> dict[str, Any] | None:
        """The same as a chat's `response_format`."""
        if self.type == "text":
            return None
        if self.schema_ is None:
            return {"type": self.type}
        named = {"name": self.name or "answer", "schema": self.schema_}
        return {"type": self.type, "json_schema": named}


class TextOptions(BaseModel):
    """OpenAI's `text`."""

    model_config = ConfigDict(extra="forbid")

    format: TextForm | None = None
    verbosity: Any = IGNORED


class ResponsesRequest(OfVllm):
    """What `/v1/responses` reads; the last turn of the user is the question."""

    model_config = ConfigDict(extra="forbid")

    input: Question | Annotated[list[InputItem], Field(min_length=1, max_length=200)]
    model: Annotated[Text, Field(max_length=500)] | None = None
    instructions: Content | None = None
    stream: bool | None = None
    max_output_tokens: int | None = Field(default=None, ge=1, lt=2**31)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    text: TextOptions | None = None
    neurorit: RagOptions | None = None
    previous_response_id: None = REFUSED_FORM
    conversation: None = REFUSED_FORM
    background: Literal[False] | None = REFUSED_FORM
    tools: Annotated[list[Any], Field(max_length=0)] | None = REFUSED_FORM
    tool_choice: Literal["none", "auto"] | None = REFUSED_FORM
    top_logprobs: Literal[0] | None = REFUSED_FORM
    store: Any = IGNORED
    metadata: Any = IGNORED
    user: Any = IGNORED
    include: Any = IGNORED
    reasoning: Any = IGNORED
    truncation: Any = IGNORED
    service_tier: Any = IGNORED
    stream_options: Any = IGNORED
    parallel_tool_calls: Any = IGNORED
    max_tool_calls: Any = IGNORED
    safety_identifier: Any = IGNORED
    prompt_cache_key: Any = IGNORED

    @model_validator(mode="after")
    def _has_one_form(self) -> ResponsesRequest:
        form = self.text.format if self.text else None
        if form and form.type != "text" and "structured_outputs" in self.of_vllm:
            raise ValueError("text.format and structured_outputs: an answer is held to one form")
        return self

    @property
    def chat(self) -> list[Turn]:
        """All turns, those of the system too."""
        first = [Turn("system", self.instructions.strip())] if self.instructions else []
        if isinstance(self.input, str):
            return [*first, Turn("user", self.input)]
        return [*first, *(item.turn for item in self.input)]

    def sampling(self, max_tokens: int) -> Sampling:
        """How to write, with the server's own `max_tokens` where the request names none."""
        form = self.text.format if self.text else None
        return Sampling(
            max_tokens=self.max_output_tokens or max_tokens,
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            response_format=form.as_response_format if form else None,
            of_vllm=self.of_vllm,
            template=self.template,
        )


def responses_route(app: FastAPI, gateway: Gateway) -> None:
    """Add the route to an app."""

    @app.post(
        "/v1/responses",
        response_class=Response,
        responses={200: stream_or(schemas.ResponsesBody), **_REFUSALS},
    )
    async def responses(request: ResponsesRequest) -> Response:
        """An answer from retrieved passages in the form of OpenAI's responses."""
        check_tokens(gateway, request.max_output_tokens, "max_output_tokens")
        chat = request.chat
        users = [at for at, turn in enumerate(chat) if turn.role == "user"]
        questions = [chat[at].text for at in users if chat[at].text]
        last = users[-1] if users else 0
        asking = asked(
            gateway,
            model=request.model,
            questions=questions if users and chat[last].text else [],
            turns=[turn for at, turn in enumerate(chat) if at < last or turn.role == "system"],
            write=request.sampling,
            options=request.neurorit,
            param="input",
        )
        written = _Response(asking.model, request)
        if not request.stream:
            outcome = await asking.answer()
            return Response(orjson.dumps(written.whole(outcome)), media_type="application/json")
        return await _streamed(asking, written)


class _Response:
    """The records of one response: same ids, same time."""

    def __init__(self, model: str, request: ResponsesRequest) -> None:
        self._item = f"msg_{uuid.uuid4().hex}"
        self._count = 0
        self._same: dict[str, Any] = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "parallel_tool_calls": False,
            "tool_choice": "none",
            "tools": [],
            "previous_response_id": None,
            "metadata": {},
            "error": None,
        }

    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """The response when it is written."""
        cut = outcome.finish_reason == "length"
        return {
            **self._same,
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [self._message(outcome.answer, "incomplete" if cut else "completed")],
            "usage": {
                "input_tokens": outcome.prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": outcome.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": outcome.prompt_tokens + outcome.completion_tokens,
            },
            "neurorit": verdict_field(outcome),
        }

    def opening(self) -> list[bytes]:
        """The events before the first word."""
        begun = {**self._same, "status": "in_progress", "incomplete_details": None, "output": []}
        empty = {**self._message("", "in_progress"), "content": []}
        return [
            self._event("response.created", response={**begun, "usage": None}),
            self._event("response.in_progress", response={**begun, "usage": None}),
            self._event("response.output_item.added", output_index=0, item=empty),
            self._event("response.content_part.added", **self._place(), part=_part("")),
        ]

    def of(self, event: Event) -> list[bytes]:
        """The events of one of the pipeline's."""
        if isinstance(event, Retrieved):
            # An event of our own; OpenAI's clients pass over what they do not know.
            found = passages_field(event.hits)
            return [self._event("neurorit.passages", passages=found)]
        if isinstance(event, Written):
            place = self._place()
            delta = event.text
            return [self._event("response.output_text.delta", **place, delta=delta, logprobs=[])]
        whole = self.whole(event)
        done, text = whole["output"][0], event.answer
        ended = "response.incomplete" if whole["status"] == "incomplete" else "response.completed"
        return [
            self._event("response.output_text.done", **self._place(), text=text, logprobs=[]),
            self._event("response.content_part.done", **self._place(), part=_part(text)),
            self._event("response.output_item.done", output_index=0, item=done),
            self._event(ended, response=whole),
        ]

    def failed(self, error: ApiError) -> bytes:
        """The event of a failure in the middle."""
        told = error.body["error"]
        code = told["code"] or told["type"]
        return self._event("error", code=code, message=told["message"], param=told["param"])

    def _message(self, text: str, status: str) -> dict[str, Any]:
        return {
            "id": self._item,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [_part(text)],
        }

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item, "output_index": 0, "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> bytes:
        record = {"type": kind, "sequence_number": self._count, **fields}
        self._count += 1
        return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps(record) + b"\n\n"


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


async def _streamed(asking: Asked, written: _Response) -> StreamingResponse:
    # As of the chat: what fails before the first word has a status of its own.
    events = asking.stream()
    first = [await anext(events), await anext(events)]
    return StreamingResponse(
        _server_sent(first, events, written),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _server_sent(
    first: list[Event], rest: AsyncGenerator[Event, None], written: _Response
) -> AsyncIterator[bytes]:
    try:
        async with aclosing(rest):
            for line in written.opening():
                yield line
            for event in first:
                for line in written.of(event):
                    yield line
            async for event in rest:
                for line in written.of(event):
                    yield line
    except CallFailed as error:
        yield written.failed(upstream_refusal(error))
    except BadInput as error:
        yield written.failed(ApiError(400, str(error)))
    except NeuroritError as error:
        yield written.failed(search_refusal(error))
    except Exception:
        # The status is sent: only an event can still say that this is no whole answer.
        _log.exception("a stream failed")
        text = "the server failed; see its log"
        yield written.failed(ApiError(500, text, kind="server_error"))
