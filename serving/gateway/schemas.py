"""The responses as OpenAPI describes them.

Only for the description: answers are not run through these models, but the tests hold them to it.
"""

from __future__ import annotations

from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ErrorDetail(_Shape):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(_Shape):
    error: ErrorDetail


class Health(_Shape):
    status: Literal["ok"]


class Ready(_Shape):
    ready: bool
    phase: str = Field(description="`ready`, or what is still being done")
    model: str
    base: str | None = Field(description="the second model, where one can be compared with")
    base_phase: str | None = Field(description="`ready`, or what it does, where there is one")
    adapters: list[str] = Field(description="names that can be asked beside the model")


class ModelFacts(_Shape):
    digest: str = Field(description="of checkpoint, index and search; answers depend on it alone")


class ModelCard(_Shape):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    parent: str | None = Field(default=None, description="of an adapter: the model beneath it")
    neurorit: ModelFacts | None = None


class ModelList(_Shape):
    object: Literal["list"]
    data: list[ModelCard]


class AdapterRecord(_Shape):
    name: str
    rank: int = Field(ge=1)
    digest: str = Field(description="of its files")


class AdapterList(_Shape):
    object: Literal["list"]
    data: list[AdapterRecord]


class PassageRecord(_Shape):
    rank: int = Field(ge=1)
    id: str
    title: str
    text: str
    score: float


class MixedPassageRecord(PassageRecord):
    kind: Literal["retrieved", "distractor", "random"]


class Usage(_Shape):
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)
    total_tokens: int = Field(ge=0)


class LeftOutRecord(_Shape):
    turns: int = Field(ge=0, description="of the chat")
    passages: int = Field(ge=0)
    system: bool = Field(description="whether the system's message")


class Verdict(_Shape):
    passages: list[PassageRecord]
    abstained: bool
    grounded: bool
    policy: Literal["abstain", "closed-book", "deeper"]
    attempts: int
    cited: list[str] = Field(description="ids of the passages that the answer cites or quotes")
    unsupported: list[tuple[int, int]] = Field(
        description="where sentences begin and end that no passage supports, by their words and, "
        "where these leave it in doubt, by the server's judge"
    )
    reason: str | None = Field(description="`model ended` or `no passage above X`")
    nearest: list[PassageRecord] = Field(description="found, but not near enough to be shown")
    left_out: LeftOutRecord = Field(description="what the model's context had no room for")


class AssistantMessage(_Shape):
    role: Literal["assistant"]
    content: str
    refusal: None
    reasoning_content: str | None = Field(default=None, description="of a model that thinks")


class ChatChoice(_Shape):
    index: Literal[0]
    message: AssistantMessage
    logprobs: None
    finish_reason: str


class ChatCompletion(_Shape):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    neurorit: Verdict


class ResponsePart(_Shape):
    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[Any]


class ResponseMessage(_Shape):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: Literal["completed", "incomplete"]
    content: list[ResponsePart]


class CutShort(_Shape):
    reason: Literal["max_output_tokens"]


class ResponseUsage(_Shape):
    input_tokens: int = Field(ge=0)
    input_tokens_details: dict[str, int]
    output_tokens: int = Field(ge=0)
    output_tokens_details: dict[str, int]
    total_tokens: int = Field(ge=0)


class ResponsesBody(_Shape):
    id: str
    object: Literal["response"]
    created_at: int
    model: str
    status: Literal["completed", "incomplete"]
    incomplete_details: CutShort | None
    instructions: str | None
    max_output_tokens: int | None
    temperature: float | None
    top_p: float | None
    parallel_tool_calls: Literal[False]
    tool_choice: Literal["none"]
    tools: list[Any]
    previous_response_id: None
    metadata: dict[str, str]
    error: None
    output: list[ResponseMessage]
    usage: ResponseUsage
    neurorit: Verdict


class TextChoice(_Shape):
    index: Literal[0]
    text: str
    logprobs: None
    finish_reason: str


class TextCompletion(_Shape):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage
    neurorit: Verdict


class RetrieveBody(_Shape):
    query: str
    passages: list[PassageRecord]


class ComparedSystem(_Shape):
    system: Literal["base", "tuned"]
    model: str
    answer: str
    abstained: bool
    cited: list[str]
    finish_reason: str
    seconds: float
    usage: Usage


class CompareBody(_Shape):
    question: str
    passages: list[MixedPassageRecord]
    systems: list[ComparedSystem]


_EVENT = {
    "type": "object",
    "description": "One event: a chunk as JSON, an error body, or [DONE].",
    "properties": {"data": {"type": "string"}},
    "required": ["data"],
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """FastAPI's description of the refusals a route may give."""
    return {status: {"model": ErrorBody} for status in statuses}


def stream_or(model: type[BaseModel]) -> dict[str, Any]:
    """FastAPI's description of a 200 that is one JSON object or a stream of server-sent events."""
    return {
        "model": model,
        "content": {"text/event-stream": {"schema": _EVENT}},
        "description": "The answer, or with `stream` its server-sent events.",
    }


def describe(app: FastAPI, *, with_keys: bool) -> None:
    """Make the app's OpenAPI tell the truth: 400 where FastAPI writes 422, and the key."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        document = plain()
        for path, item in document["paths"].items():
            for operation in item.values():
                operation["responses"].pop("422", None)
                if with_keys and path not in ("/health", "/ready"):
                    operation["security"] = [{"key": []}]
        schemas = document.get("components", {}).get("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        if with_keys:
            document["components"]["securitySchemes"] = {
                "key": {"type": "http", "scheme": "bearer"}
            }
        app.openapi_schema = document
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way
