"""The shapes of the gateway's requests and responses: OpenAI's, with a `neurorit` field beside.

Pure data: it knows nothing of FastAPI, retrieval or the language model.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from serving.client import Sampling
from serving.pipeline import Found, Outcome, Policy

MAX_TOP_K = 50
MAX_TOKENS = 1024
MAX_CHARACTERS = 20_000

Question = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_CHARACTERS)
]


class RagOptions(BaseModel):
    """The `neurorit` field of a chat request."""

    model_config = ConfigDict(extra="forbid")

    top_k: int | None = Field(
        default=None, ge=0, le=MAX_TOP_K, description="passages; 0: closed book"
    )
    policy: Policy | None = Field(default=None, description="what follows an empty answer")


class TextPart(BaseModel):
    """A part of a message; only text can be answered."""

    type: Literal["text"]
    text: str = Field(max_length=MAX_CHARACTERS)


class Message(BaseModel):
    """One turn of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, Field(max_length=MAX_CHARACTERS)] | list[TextPart]

    @property
    def text(self) -> str:
        """The content as one string."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    """OpenAI's `stream_options`."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """What `/v1/chat/completions` reads; the last user message is the question.

    Fields of OpenAI's that change nothing here (user, metadata, ...) are accepted and ignored;
    those that would need something else than one text answer are refused.
    """

    model: str | None = None
    messages: list[Message] = Field(min_length=1, max_length=200)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = Field(default=None, max_length=1000)
    n: Literal[1] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    neurorit: RagOptions = RagOptions()

    @property
    def question(self) -> str:
        """Text of the last user message, "" if there is none."""
        users = [message.text for message in self.messages if message.role == "user"]
        return users[-1].strip() if users else ""

    def sampling(self, max_tokens: int) -> Sampling:
        """How to write, with the server's own `max_tokens` where the request names none."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Sampling(
            max_tokens=self.max_completion_tokens or self.max_tokens or max_tokens,
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=tuple(text for text in stop if text),
        )


class RetrieveRequest(BaseModel):
    """What `/v1/retrieve` reads."""

    model_config = ConfigDict(extra="forbid")

    query: Question
    top_k: int | None = Field(default=None, ge=1, le=MAX_TOP_K)


def passages_field(hits: Sequence[Found]) -> list[dict[str, Any]]:
    """Retrieved passages as JSON records, best first; ranks count from 1."""
    return [
        {
            "rank": rank,
            "id": hit.passage.id,
            "title": hit.passage.title,
            "text": hit.passage.text,
            "score": round(float(hit.score), 6),
        }
        for rank, hit in enumerate(hits, start=1)
    ]


def verdict_field(outcome: Outcome) -> dict[str, Any]:
    """The `neurorit` field that says how an answer came about."""
    return {
        "passages": passages_field(outcome.hits),
        "abstained": outcome.abstained,
        "grounded": outcome.grounded,
        "policy": outcome.policy,
        "attempts": outcome.attempts,
    }


def completion(model: str, outcome: Outcome) -> dict[str, Any]:
    """A whole `chat.completion`."""
    message = {"role": "assistant", "content": outcome.answer, "refusal": None}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": outcome.finish_reason,
    }
    return {
        **_head("chat.completion", model, _new_id()),
        "choices": [choice],
        "usage": usage(outcome),
        "neurorit": verdict_field(outcome),
    }


class ChunkMaker:
    """The `chat.completion.chunk` records of one streamed answer: same id, same time."""

    def __init__(self, model: str, *, with_usage: bool) -> None:
        self._head = _head("chat.completion.chunk", model, _new_id())
        self._with_usage = with_usage

    def delta(self, delta: dict[str, str], neurorit: Any = None) -> dict[str, Any]:
        """A chunk with a part of the message."""
        return self._chunk(delta, None, neurorit)

    def last(self, outcome: Outcome) -> dict[str, Any]:
        """The chunk that ends the message and carries the verdict."""
        return self._chunk({}, outcome.finish_reason, verdict_field(outcome))

    def usage(self, outcome: Outcome) -> dict[str, Any]:
        """The chunk without choices that `stream_options.include_usage` asks for."""
        return {**self._head, "choices": [], "usage": usage(outcome)}

    def _chunk(self, delta: dict[str, str], reason: str | None, neurorit: Any) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        chunk: dict[str, Any] = {**self._head, "choices": [choice]}
        if self._with_usage:
            chunk["usage"] = None
        if neurorit is not None:
            chunk["neurorit"] = neurorit
        return chunk


def usage(outcome: Outcome) -> dict[str, int]:
    """Token counts; every attempt's prompt counts."""
    return {
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": outcome.completion_tokens,
        "total_tokens": outcome.prompt_tokens + outcome.completion_tokens,
    }


def error_body(
    message: str, kind: str, *, param: str | None = None, code: str | None = None
) -> Any:
    """OpenAI's error shape."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _head(kind: str, model: str, identity: str) -> dict[str, Any]:
    return {"id": identity, "object": kind, "created": int(time.time()), "model": model}


def _new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"
