"""What OpenAI-compatible servers reply, read in one way whatever carries it: texts and errors.

Known forms: OpenAI's, vLLM's, TGI's, LiteLLM's and llama.cpp's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from neurorit.core.errors import NeuroritError

_TEXTS = ("text", "output_text")
_LONGEST = 300  # characters of a server's words that an error repeats


Unread = Literal["", "cut", "filtered", "thinking", "tool call"]
"""Why a reply cannot be scored; empty where it can."""

HINTS: Mapping[Unread, str] = {
    "cut": "cut at max_tokens; raise ‹max_tokens›, or ‹thinking_tokens› for a model that thinks",
    "filtered": "withheld by the server's filter; look at the server's settings",
    "thinking": "nothing but reasoning; turn thinking off in the system's request fields, or give "
    "it --thinking-tokens",
    "tool call": "a tool call in place of an answer; ask it without tools",
}
_CUT = frozenset({"length", "max_tokens", "abort"})
_FILTERED = frozenset({"content_filter", "safety", "refusal"})
_TOOLS = frozenset({"tool_calls", "function_call"})
_TAG = r"(?:think|thinking|reasoning|thought)"
_CLOSED = re.compile(rf"(?s)^.*(?:</{_TAG}>|\[/THINK\])", re.IGNORECASE)
_OPENED = re.compile(rf"(?s)(?:<{_TAG}>|\[THINK\]).*$", re.IGNORECASE)


class CallFailed(NeuroritError):
    """A server gave nothing usable. status: the HTTP status of its reply, None where none came."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status

    @property
    def of_this_request(self) -> bool:
        """Refused for what stands in it, such as its length; that says nothing of the next one."""
        return self.status in (400, 413, 422)

    @property
    def of_every_request(self) -> bool:
        """Refused for its key, its model's name or its route: so will the next one be."""
        return self.status in (401, 403, 404)


@dataclass(frozen=True)
class Piece:
    """A completion, or a part of one as it arrives; the last with text has the `finish_reason`.

    tokens: of the whole completion, where the server counted them; stopped_by: the string of
    `stop` that ended it, where one did; reasoning: what a thinking model wrote before its answer,
    where the server keeps it apart.
    """

    text: str
    finish_reason: str | None = None
    tokens: int | None = None
    stopped_by: str | None = None
    reasoning: str = ""


def read_piece(record: Any, *, streamed: bool = False) -> Piece:
    """The first choice of a completion, of a chat completion, or of a chunk of either.

    streamed: a chunk may be without choices, as the one that counts tokens is. Raises CallFailed
    for an error in a completion's place, ValueError for what is neither.
    """
    try:
        if record.get("error"):
            raise CallFailed(error_message(record))
        tokens = (record.get("usage") or {}).get("completion_tokens")
        choices = record["choices"]
        if not choices and streamed:
            return Piece("", None, tokens)
        choice = choices[0]
        reason = choice.get("stop_reason")
        stopped_by = reason if isinstance(reason, str) else None
        if "text" in choice:
            written = choice["text"] or ""
            if not isinstance(written, str):
                raise TypeError("a completion's text is no text")
            return Piece(written, choice.get("finish_reason"), tokens, stopped_by)
        message = choice["delta" if "delta" in choice else "message"] or {}
        content = message.get("content")
        text, ended = content_text(content), choice.get("finish_reason")
        refused = message.get("refusal") or content_text(content, ("refusal",), "refusal")
        if refused and not text:
            # What the server says in the model's place; `content` is null, or holds this alone.
            text, ended = str(refused), "content_filter"
        thought = message.get("reasoning_content") or message.get("reasoning")
        thought = content_text(thought) or content_text(content, ("thinking",), "thinking")
        return Piece(text, ended, tokens, stopped_by, thought)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError("no completion") from error


def content_text(content: Any, kinds: Sequence[str] = _TEXTS, named: str = "text") -> str:
    """The text of a message's content: a string, nothing, or a list of parts.

    Parts of other `kinds`, such as a thought or an image, are no text of the answer; named: where
    a part of these kinds keeps its text. Raises ValueError for content of another form.
    """
    if isinstance(content, str):
        return content if kinds == _TEXTS else ""
    if content is None:
        return ""
    if not isinstance(content, list):
        raise ValueError("content is no text")
    parts = ({"text": part} if isinstance(part, str) else part for part in content)
    texts = (part.get(named) for part in parts if part.get("type", "text") in kinds)
    return "".join(text for text in texts if isinstance(text, str))


def read_cards(reply: Any) -> list[Mapping[str, Any]]:
    """The models that `/v1/models` lists, each with its `id`; raises ValueError for no list."""
    try:
        cards = [dict(card) for card in reply["data"]]
        if not all("id" in card for card in cards):
            raise ValueError("a model without an id")
        return list(cards)
    except (KeyError, TypeError) as error:
        raise ValueError("no list of models") from error


def error_message(body: Any) -> str:
    """One line of what a body says is wrong; "" where it says nothing that a person can read.

    body: raw bytes, or what was decoded from them.
    """
    if isinstance(body, bytes):
        try:
            body = json.loads(body)
        except ValueError:
            text = body.decode("utf-8", "replace").strip()
            return "" if text.startswith("<") else _line(text)
    while isinstance(body, Mapping):
        # {"error": {"message"}} of most, {"error": "..."} of TGI, {"message"} of older vLLM,
        # {"detail"} of FastAPI, of which LiteLLM and vLLM are made.
        found = (body.get(name) for name in ("error", "message", "detail", "msg"))
        body = next((value for value in found if value), "")
    if isinstance(body, list) and body:
        return error_message(body[0])
    return _line(str(body)) if isinstance(body, str) else ""


def refusal_text(status: int, body: bytes, reason: str, location: str | None) -> str:
    """What a server says with a status that is no success."""
    if location and 300 <= status < 400:
        # A prompt and a key are for the server that was named.
        return _line(f"it redirects to {location}, which is not followed: name that address")
    return error_message(body) or _line(reason)


def _line(text: str) -> str:
    return " ".join(text.split())[:_LONGEST]


class ChatReply(NamedTuple):
    """text: the answer without the thinking before it; unread: why it cannot be scored."""

    text: str
    unread: Unread = ""


def read_reply(text: str, finish_reason: str | None = None, reasoning: str = "") -> ChatReply:
    """The answer in a reply's text, which may begin with its thinking.

    finish_reason: why it ended, where that is known; reasoning: thinking that the server keeps
    apart.
    """
    written, thought = _without_thinking(text)
    unread: Unread = ""
    if finish_reason in _CUT:
        unread = "cut"
    elif finish_reason in _FILTERED:
        unread = "filtered"
    elif not written.strip() and finish_reason in _TOOLS:
        unread = "tool call"
    elif not written.strip() and (thought or reasoning.strip()):
        unread = "thinking"
    return ChatReply(written, unread)


def _without_thinking(text: str) -> tuple[str, bool]:
    """The text after its thinking, also where the template opened it, and whether there was any.

    Thinking that is not closed goes on to the end.
    """
    after = _OPENED.sub("", _CLOSED.sub("", text))
    return (after, True) if after != text else (text, False)
