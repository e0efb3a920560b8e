"""The shapes of the gateway's requests and errors: OpenAI's, with a `neurorit` field beside.

Responses are made in `gateway.responses`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from neurorit.serving.backends.openai_client import Sampling
from neurorit.serving.rag.pipeline import Search
from neurorit.serving.rag.prompt_budget import Turn
from neurorit.serving.settings import Policy

MAX_TOP_K = 50
MAX_CHARACTERS = 20_000
MAX_NOISE = 20
MAX_HISTORY = 10
MAX_STOPS = 4
MAX_SCHEMA = 20_000


def _is_text(value: str) -> str:
    """JSON can hold halves of characters, which no other program takes as text."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("not valid Unicode text") from None
    return value


def _spelt(value: Any) -> Any:
    """A filter's value as JSON spells it: `true`, `2021`, and texts as they are."""
    if value is None or isinstance(value, (bool, int, float)):
        return orjson.dumps(value).decode()
    if not isinstance(value, str):
        raise ValueError("a filter's value is a text, a number, true, false or null")
    return value


_Text = Annotated[str, AfterValidator(_is_text)]
_Content = Annotated[_Text, Field(max_length=MAX_CHARACTERS)]
Question = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_CHARACTERS),
    AfterValidator(_is_text),
]
_Name = Annotated[_Text, Field(min_length=1, max_length=100)]
_Value = Annotated[
    _Text,
    Field(max_length=200),
    BeforeValidator(_spelt),
    WithJsonSchema({"type": ["string", "number", "boolean", "null"], "maxLength": 200}),
]
_Stop = Annotated[_Text, Field(max_length=200)]
_Bias = Annotated[float, Field(ge=-100, le=100)]
_IGNORED: Any = Field(default=None, description="accepted; changes nothing here")
_None: Any = Field(default=None, description="what would change the answer's form is refused")


class _SearchOptions(BaseModel):
    """How passages are found, for one request."""

    model_config = ConfigDict(extra="forbid")

    retriever: Literal["dense", "bm25", "hybrid"] | None = Field(
        default=None, description="a way that the server has loaded"
    )
    filters: Annotated[dict[_Name, _Value], Field(max_length=10)] = Field(
        default={},
        description="fields of the passages' meta (dots lead into nested ones) and their values",
    )

    def search(self) -> Search:
        """The same for the pipeline."""
        return Search(self.retriever or "", tuple(sorted(self.filters.items())))


class RagOptions(_SearchOptions):
    """The `neurorit` field of a request."""

    top_k: int | None = Field(
        default=None, ge=0, le=MAX_TOP_K, description="passages; 0: closed book"
    )
    policy: Policy | None = Field(default=None, description="what follows an empty answer")
    history: int | None = Field(
        default=None, ge=0, le=MAX_HISTORY, description="earlier questions that the search sees too"
    )


class TextPart(BaseModel):
    """A part of a message; only text can be answered."""

    type: Literal["text"]
    text: _Content


class Message(BaseModel):
    """One turn of a chat. Only the assistant's may be empty, as one that called a tool."""

    role: Literal["system", "developer", "user", "assistant"]
    content: _Content | list[TextPart] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Message:
        if self.content is None and self.role != "assistant":
            raise ValueError("content: a message needs text")
        return self

    @property
    def text(self) -> str:
        """The content as one string."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""

    @property
    def turn(self) -> Turn:
        """The same for the pipeline."""
        role = "system" if self.role == "developer" else self.role
        return Turn(role, self.text.strip())


class StreamOptions(BaseModel):
    """OpenAI's `stream_options`."""

    include_usage: bool | None = None


class ResponseFormat(BaseModel):
    """OpenAI's `response_format`: free text, JSON, or JSON of a schema."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema belongs to the type `json_schema`, and only to it")
        try:
            size = len(orjson.dumps(self.json_schema))
        except (TypeError, ValueError):
            raise ValueError("json_schema: cannot be read") from None
        if size > MAX_SCHEMA:
            raise ValueError(f"json_schema: longer than {MAX_SCHEMA} characters")
        return self


class _Writing(BaseModel):
    """How an answer is to be written, as both of OpenAI's interfaces say it.

    Fields of OpenAI's that change nothing of an answer (user, metadata, store, ...) are accepted
    and ignored; those that would need something else than one text answer are refused by name, and
    so is what nobody knows.
    """

    model_config = ConfigDict(extra="forbid")

    model: Annotated[_Text, Field(max_length=500)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1, lt=2**31)
    max_completion_tokens: int | None = Field(default=None, ge=1, lt=2**31)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], _Bias] | None = Field(
        default=None, max_length=300
    )
    response_format: ResponseFormat | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: _Stop | Annotated[list[_Stop], Field(max_length=MAX_STOPS)] | None = None
    n: Literal[1] | None = None
    neurorit: RagOptions | None = None
    user: Any = _IGNORED
    metadata: Any = _IGNORED
    store: Any = _IGNORED
    service_tier: Any = _IGNORED
    parallel_tool_calls: Any = _IGNORED
    safety_identifier: Any = _IGNORED
    prompt_cache_key: Any = _IGNORED
    prompt_cache_retention: Any = _IGNORED
    reasoning_effort: Any = _IGNORED
    verbosity: Any = _IGNORED

    @property
    def asked_tokens(self) -> int | None:
        """Tokens of an answer, where the request names a number."""
        return self.max_completion_tokens or self.max_tokens

    def sampling(self, max_tokens: int) -> Sampling:
        """How to write, with the server's own `max_tokens` where the request names none."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        wanted = self.response_format
        return Sampling(
            max_tokens=self.asked_tokens or max_tokens,
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=tuple(text for text in stop if text),
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            logit_bias=tuple((self.logit_bias or {}).items()),
            response_format=wanted.model_dump(exclude_none=True)
            if wanted and wanted.type != "text"
            else None,
        )


class ChatRequest(_Writing):
    """What `/v1/chat/completions` reads; the last user message is the question."""

    messages: list[Message] = Field(min_length=1, max_length=200)
    logprobs: Literal[False] | None = _None
    top_logprobs: Literal[0] | None = _None
    tools: Annotated[list[Any], Field(max_length=0)] | None = _None
    tool_choice: Literal["none", "auto"] | None = _None
    functions: Annotated[list[Any], Field(max_length=0)] | None = _None
    function_call: Literal["none", "auto"] | None = _None
    modalities: list[Literal["text"]] | None = _None
    audio: None = _None
    prediction: None = _None
    web_search_options: None = _None

    @property
    def questions(self) -> list[str]:
        """Texts of the user's messages, the one to answer last; none if that one is empty."""
        users = [message.text.strip() for message in self.messages if message.role == "user"]
        return [text for text in users if text] if users and users[-1] else []

    @property
    def turns(self) -> list[Turn]:
        """The chat before the question, and what the system says wherever it stands."""
        last = max(i for i, m in enumerate(self.messages) if m.role == "user")
        return [
            message.turn
            for i, message in enumerate(self.messages)
            if i < last or message.turn.role == "system"
        ]


class CompletionRequest(_Writing):
    """What `/v1/completions` reads; the prompt is the question."""

    prompt: Question | Annotated[list[Question], Field(min_length=1, max_length=1)]
    best_of: Literal[1] | None = _None
    echo: Literal[False] | None = _None
    suffix: Literal[""] | None = _None
    logprobs: None = _None

    @property
    def questions(self) -> list[str]:
        """The one question."""
        return [self.prompt] if isinstance(self.prompt, str) else list(self.prompt)

    @property
    def turns(self) -> list[Turn]:
        """None: this interface has no chats."""
        return []


class Noise(BaseModel):
    """How many noisy passages are mixed in, by kind."""

    model_config = ConfigDict(extra="forbid")

    distractor: int = Field(default=0, ge=0, le=MAX_NOISE, description="ranked next to the best")
    random: int = Field(default=0, ge=0, le=MAX_NOISE, description="drawn from the corpus")


class CompareRequest(_SearchOptions):
    """What `/v1/rag/compare` reads."""

    question: Question
    top_k: int | None = Field(default=None, ge=0, le=MAX_TOP_K)
    noise: Noise = Noise()
    seed: int = Field(default=0, ge=0, lt=2**31, description="of the drawing and the order")
    max_tokens: int | None = Field(default=None, ge=1, lt=2**31)


class RetrieveRequest(_SearchOptions):
    """What `/v1/retrieve` reads."""

    query: Question
    top_k: int | None = Field(default=None, ge=1, le=MAX_TOP_K)


# What a misspelt field may have meant.
FIELDS = frozenset(
    name
    for shape in (ChatRequest, CompletionRequest, CompareRequest, RetrieveRequest, RagOptions)
    for name in shape.model_fields
)
