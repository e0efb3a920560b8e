"""The shapes of the gateway's requests and errors: OpenAI's, with a `neurorit` field beside.

Pure data: it knows nothing of FastAPI, retrieval or the language model. Responses are made in
`serving.responses`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from serving.client import Sampling
from serving.pipeline import Policy, Search

MAX_TOP_K = 50
MAX_TOKENS = 4096
MAX_CHARACTERS = 20_000
MAX_NOISE = 20
MAX_HISTORY = 10

Question = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_CHARACTERS)
]


_Name = Annotated[str, StringConstraints(min_length=1, max_length=100)]
_Value = Annotated[str, StringConstraints(max_length=200)]


class _SearchOptions(BaseModel):
    """How passages are found, for one request."""

    model_config = ConfigDict(extra="forbid")

    retriever: Literal["dense", "bm25", "hybrid"] | None = Field(
        default=None, description="a way that the server has loaded"
    )
    filters: Annotated[dict[_Name, _Value], Field(max_length=10)] = Field(
        default={}, description="fields of the passages' meta and their values"
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


class _Writing(BaseModel):
    """How an answer is to be written, as both of OpenAI's interfaces say it.

    Fields of OpenAI's that change nothing here (user, metadata, ...) are accepted and ignored;
    those that would need something else than one text answer are refused.
    """

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = Field(default=None, max_length=1000)
    n: Literal[1] | None = None
    neurorit: RagOptions = RagOptions()

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


class ChatRequest(_Writing):
    """What `/v1/chat/completions` reads; the last user message is the question."""

    messages: list[Message] = Field(min_length=1, max_length=200)
    tools: Annotated[list[Any], Field(max_length=0)] | None = None

    @property
    def questions(self) -> list[str]:
        """Texts of the user's messages, the one to answer last; none if that one is empty."""
        users = [message.text.strip() for message in self.messages if message.role == "user"]
        return [text for text in users if text] if users and users[-1] else []


class CompletionRequest(_Writing):
    """What `/v1/completions` reads; the prompt is the question."""

    prompt: Question | Annotated[list[Question], Field(min_length=1, max_length=1)]
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    suffix: Literal[""] | None = None

    @property
    def questions(self) -> list[str]:
        """The one question."""
        return [self.prompt] if isinstance(self.prompt, str) else list(self.prompt)


class Noise(BaseModel):
    """How many noisy passages are mixed in, by kind."""

    model_config = ConfigDict(extra="forbid")

    distractor: int = Field(default=0, ge=0, le=MAX_NOISE, description="ranked next to the best")
    random: int = Field(default=0, ge=0, le=MAX_NOISE, description="drawn from the corpus")


class CompareRequest(BaseModel):
    """What `/v1/rag/compare` reads."""

    model_config = ConfigDict(extra="forbid")

    question: Question
    top_k: int | None = Field(default=None, ge=0, le=MAX_TOP_K)
    noise: Noise = Noise()
    seed: int = Field(default=0, ge=0, lt=2**31, description="of the drawing and the order")
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)


class RetrieveRequest(_SearchOptions):
    """What `/v1/retrieve` reads."""

    query: Question
    top_k: int | None = Field(default=None, ge=1, le=MAX_TOP_K)


def error_body(
    message: str, kind: str, *, param: str | None = None, code: str | None = None
) -> Any:
    """OpenAI's error shape."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
