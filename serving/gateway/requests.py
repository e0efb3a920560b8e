"""The shapes of the gateway's requests and errors: OpenAI's, with a `neurorit` field beside.

Responses are made in `gateway.responses`.
"""

from __future__ import annotations

import re
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
from neurorit.serving.gateway.structured import (
    Choices,
    Grammar,
    Regex,
    Schema,
    StructuredOutputs,
    check_schema,
    is_text,
)
from neurorit.serving.rag.pipeline import Search
from neurorit.serving.rag.prompt_budget import Turn
from neurorit.serving.settings import Policy

MAX_TOP_K = 50
MAX_CHARACTERS = 20_000
MAX_NOISE = 20
MAX_HISTORY = 10
MAX_STOPS = 4
_PLAIN = re.compile(r"^[A-Za-z0-9 _.,-]{0,60}$")
_PLAIN_SCHEMA = {"type": "string", "pattern": _PLAIN.pattern}
_OURS = frozenset(
    [
        "messages",
        "conversation",
        "tools",
        "documents",
        "chat_template",
        "add_generation_prompt",
        "tokenize",
        "padding",
        "continue_final_message",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "tokenizer_kwargs",
        "return_assistant_tokens_mask",
        "date_string",
        "strftime_now",
        "bos_token",
        "eos_token",
    ]
)


def _is_plain(value: Any) -> Any:
    """A template writes its texts as its own: nothing that could be a marker may stand in them."""
    if isinstance(value, (bool, int, float)) or (isinstance(value, str) and _PLAIN.match(value)):
        return value
    raise ValueError("true, false, a number, or a short text of letters, digits and ` _.,-`")


def _is_told(name: str) -> str:
    """What the gateway itself tells a template is not the client's."""
    if name in _OURS:
        raise ValueError(f"{name} is the server's to say")
    return name


def _spelt(value: Any) -> Any:
    """A filter's value as JSON spells it: `true`, `2021`, and texts as they are."""
    if value is None or isinstance(value, (bool, int, float)):
        return orjson.dumps(value).decode()
    if not isinstance(value, str):
        raise ValueError("a filter's value is a text, a number, true, false or null")
    return value


Text = Annotated[str, AfterValidator(is_text)]
Content = Annotated[Text, Field(max_length=MAX_CHARACTERS)]
Question = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_CHARACTERS),
    AfterValidator(is_text),
]
_Name = Annotated[Text, Field(min_length=1, max_length=100)]
_Value = Annotated[
    Text,
    Field(max_length=200),
    BeforeValidator(_spelt),
    WithJsonSchema({"type": ["string", "number", "boolean", "null"], "maxLength": 200}),
]
_Scalar = Annotated[
    Any,
    BeforeValidator(_is_plain),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "number"}, _PLAIN_SCHEMA]}),
]
_Told = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$"), AfterValidator(_is_told)]
_Stop = Annotated[Text, Field(max_length=200)]
_Bias = Annotated[float, Field(ge=-100, le=100)]
IGNORED: Any = Field(default=None, description="accepted; changes nothing here")
REFUSED_FORM: Any = Field(default=None, description="another form of answer is refused")


class _SearchOptions(BaseModel):
    """How passages are found, for one request."""

    model_config = ConfigDict(extra="forbid")

    retriever: Literal["dense", "bm25", "hybrid", "sparse"] | None = Field(
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
    min_score: float | None = Field(
        default=None,
        ge=-1e9,
        le=1e9,
        allow_inf_nan=False,
        description="where the best passage scores less, the policy follows at once",
    )
    history: int | None = Field(
        default=None, ge=0, le=MAX_HISTORY, description="earlier questions that the search sees too"
    )


class TextPart(BaseModel):
    """A part of a message; only text can be answered."""

    type: Literal["text"]
    text: Content

    @model_validator(mode="before")
    @classmethod
    def _is_text(cls, part: Any) -> Any:
        if isinstance(part, dict) and isinstance(kind := part.get("type"), str) and kind != "text":
            raise ValueError(f"a part of type {kind[:40]!r} cannot be read: this server reads text")
        return part


class Message(BaseModel):
    """One turn of a chat. Only the assistant's may be empty, as one that called a tool."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content | list[TextPart] | None = None

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
        if self.json_schema is not None:
            check_schema(self.json_schema)
        return self


class OfVllm(BaseModel):
    """Fields of vLLM's own interface, which go through where the model's server is vLLM.

    The older `guided_*` are sent as the `structured_outputs` that took their place.
    """

    top_k: int | None = Field(default=None, ge=-1, lt=2**31, description="0 or -1: all tokens")
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    min_tokens: int | None = Field(default=None, ge=0, lt=2**31)
    ignore_eos: bool | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | None = None
    guided_regex: Regex | None = None
    guided_choice: Choices | None = None
    guided_grammar: Grammar | None = None
    chat_template_kwargs: Annotated[dict[_Told, _Scalar], Field(max_length=10)] | None = Field(
        default=None, description="what the chat template is told beside the chat"
    )

    @property
    def template(self) -> tuple[tuple[str, Any], ...]:
        """What the chat template is told."""
        return tuple((self.chat_template_kwargs or {}).items())

    @property
    def of_vllm(self) -> dict[str, Any]:
        """What is passed on, by vLLM's names."""
        fields = {
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "min_tokens": self.min_tokens,
            "ignore_eos": self.ignore_eos,
            "structured_outputs": self.structured_outputs and self.structured_outputs.sent(),
        }
        for name in ("json", "regex", "choice", "grammar"):
            guided = getattr(self, f"guided_{name}")
            if guided is not None:
                fields["structured_outputs"] = {name: guided}
        return {name: value for name, value in fields.items() if value is not None}

    @model_validator(mode="after")
    def _holds_to_one_form(self) -> OfVllm:
        forms = ["structured_outputs", "guided_json", "guided_regex", "guided_choice"]
        forms += ["guided_grammar", "response_format"]
        named = [name for name in forms if getattr(self, name, None) is not None]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)}: an answer is held to one form")
        return self


class _Writing(OfVllm):
    """How an answer is to be written, as both of OpenAI's interfaces say it.

    Fields of OpenAI's that change nothing of an answer (user, metadata, store, ...) are accepted
    and ignored; those that would need something else than one text answer are refused by name, and
    so is what nobody knows.
    """

    model_config = ConfigDict(extra="forbid")

    model: Annotated[Text, Field(max_length=500)] | None = None
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
    user: Any = IGNORED
    metadata: Any = IGNORED
    store: Any = IGNORED
    service_tier: Any = IGNORED
    parallel_tool_calls: Any = IGNORED
    safety_identifier: Any = IGNORED
    prompt_cache_key: Any = IGNORED
    prompt_cache_retention: Any = IGNORED
    reasoning_effort: Any = IGNORED
    verbosity: Any = IGNORED

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
            of_vllm=self.of_vllm,
            template=self.template,
        )


class ChatRequest(_Writing):
    """What `/v1/chat/completions` reads; the last user message is the question."""

    messages: list[Message] = Field(min_length=1, max_length=200)
    logprobs: Literal[False] | None = REFUSED_FORM
    top_logprobs: Literal[0] | None = REFUSED_FORM
    tools: Annotated[list[Any], Field(max_length=0)] | None = REFUSED_FORM
    tool_choice: Literal["none", "auto"] | None = REFUSED_FORM
    functions: Annotated[list[Any], Field(max_length=0)] | None = REFUSED_FORM
    function_call: Literal["none", "auto"] | None = REFUSED_FORM
    modalities: list[Literal["text"]] | None = REFUSED_FORM
    audio: None = REFUSED_FORM
    prediction: None = REFUSED_FORM
    web_search_options: None = REFUSED_FORM

    @property
    def questions(self) -> list[str]:
        """Texts of the user's messages, the one to answer last; none if that one is empty."""
        users = [message.text.strip() for message in self.messages if message.role == "user"]
        return [text for text in users if text] if users and users[-1] else []

    @property
    def turns(self) -> list[Turn]:
        """The chat before the question, and what the system says wherever it stands."""
        asked = [i for i, m in enumerate(self.messages) if m.role == "user"]
        last = asked[-1] if asked else 0
        return [
            message.turn
            for i, message in enumerate(self.messages)
            if i < last or message.turn.role == "system"
        ]


class CompletionRequest(_Writing):
    """What `/v1/completions` reads; the prompt is the question."""

    prompt: Question | Annotated[list[Question], Field(min_length=1, max_length=1)]
    best_of: Literal[1] | None = REFUSED_FORM
    echo: Literal[False] | None = REFUSED_FORM
    suffix: Literal[""] | None = REFUSED_FORM
    logprobs: None = REFUSED_FORM

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
    model: Annotated[Text, Field(max_length=500)] | None = Field(
        default=None, description="an adapter to compare with its base"
    )
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
