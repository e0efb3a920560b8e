"""The gateway's responses: OpenAI's shapes, with a `neurorit` field beside.

Plain dictionaries, since every answer passes here. `gateway.schemas` describes them.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from neurorit.data.support import unsupported_spans
from neurorit.serving.rag.citations import cited
from neurorit.serving.rag.compare import Comparison
from neurorit.serving.rag.pipeline import Event, Outcome, Retrieved, Text
from neurorit.serving.rag.prompt_budget import Found


def passages_field(hits: Sequence[Found]) -> list[dict[str, Any]]:
    """Passages as JSON records in a prompt's order; ranks count from 1."""
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


def comparison(question: str, found: Comparison) -> dict[str, Any]:
    """What `/v1/rag/compare` answers."""
    shown = passages_field(found.hits)
    for record, hit in zip(shown, found.hits, strict=True):
        record["kind"] = hit.passage.kind or "retrieved"
    return {
        "question": question,
        "passages": shown,
        "systems": [
            {
                "system": side.system,
                "model": side.model,
                "answer": side.outcome.answer,
                "abstained": side.outcome.abstained,
                "cited": _cited_ids(side.outcome),
                "finish_reason": side.outcome.finish_reason,
                "seconds": round(side.seconds, 4),
                "usage": usage(side.outcome),
            }
            for side in found.sides
        ],
    }


def verdict_field(outcome: Outcome) -> dict[str, Any]:
    """The `neurorit` field that says how an answer came about."""
    return {
        "passages": passages_field(outcome.hits),
        "abstained": outcome.abstained,
        "grounded": outcome.grounded,
        "policy": outcome.policy,
        "attempts": outcome.attempts,
        "cited": _cited_ids(outcome),
        "unsupported": _unsupported(outcome),
        "reason": outcome.reason or None,
        "nearest": passages_field(outcome.nearest),
        "left_out": {
            "turns": outcome.left_out.turns,
            "passages": outcome.left_out.passages,
            "system": outcome.left_out.system,
        },
    }


def text_completion(model: str, outcome: Outcome) -> dict[str, Any]:
    """A whole `text_completion`."""
    return {
        **_head("text_completion", model, _new_id("cmpl")),
        "choices": [_text_choice(outcome.answer, outcome.finish_reason)],
        "usage": usage(outcome),
        "neurorit": verdict_field(outcome),
    }


def completion(model: str, outcome: Outcome) -> dict[str, Any]:
    """A whole `chat.completion`."""
    message = {"role": "assistant", "content": outcome.answer, "refusal": None}
    if outcome.reasoning:
        message["reasoning_content"] = outcome.reasoning
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": outcome.finish_reason,
    }
    return {
        **_head("chat.completion", model, _new_id("chatcmpl")),
        "choices": [choice],
        "usage": usage(outcome),
        "neurorit": verdict_field(outcome),
    }


class ChatChunks:
    """The `chat.completion.chunk` records of one streamed answer: same id, same time."""

    def __init__(self, model: str, *, with_usage: bool) -> None:
        self._head = _head("chat.completion.chunk", model, _new_id("chatcmpl"))
        self._with_usage = with_usage

    def opening(self) -> list[dict[str, Any]]:
        """What comes before the first event."""
        return [self._chunk({"role": "assistant", "content": ""}, None, None)]

    def of(self, event: Event) -> dict[str, Any]:
        """The chunk of an event; the outcome's ends the message and carries the verdict."""
        if isinstance(event, Retrieved):
            return self._chunk({}, None, {"passages": passages_field(event.hits)})
        if isinstance(event, Text):
            return self._chunk({"content": event.text}, None, None)
        return self._chunk({}, event.finish_reason, verdict_field(event))

    def usage(self, outcome: Outcome) -> dict[str, Any]:
        """The chunk without choices that `stream_options.include_usage` asks for."""
        return {**self._head, "choices": [], "usage": usage(outcome)}

    def _chunk(self, delta: dict[str, str], reason: str | None, neurorit: Any) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _completed(self._head, choice, neurorit, self._with_usage)


class TextChunks:
    """The `text_completion` records of one streamed answer; as `ChatChunks`."""

    def __init__(self, model: str, *, with_usage: bool) -> None:
        self._head = _head("text_completion", model, _new_id("cmpl"))
        self._with_usage = with_usage

    def opening(self) -> list[dict[str, Any]]:
        """Nothing: this interface has no roles."""
        return []

    def of(self, event: Event) -> dict[str, Any]:
        """The chunk of an event."""
        text, reason, neurorit = "", None, None
        if isinstance(event, Retrieved):
            neurorit = {"passages": passages_field(event.hits)}
        elif isinstance(event, Text):
            text = event.text
        else:
            reason, neurorit = event.finish_reason, verdict_field(event)
        return _completed(self._head, _text_choice(text, reason), neurorit, self._with_usage)

    def usage(self, outcome: Outcome) -> dict[str, Any]:
        """The chunk without choices that `stream_options.include_usage` asks for."""
        return {**self._head, "choices": [], "usage": usage(outcome)}


def usage(outcome: Outcome) -> dict[str, int]:
    """Token counts; every attempt's prompt counts."""
    return {
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": outcome.completion_tokens,
        "total_tokens": outcome.prompt_tokens + outcome.completion_tokens,
    }


def _head(kind: str, model: str, identity: str) -> dict[str, Any]:
    return {"id": identity, "object": kind, "created": int(time.time()), "model": model}


def _new_id(kind: str) -> str:
    return f"{kind}-{uuid.uuid4().hex}"


def _text_choice(text: str, reason: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}


def _completed(
    head: dict[str, Any], choice: dict[str, Any], neurorit: Any, with_usage: bool
) -> dict[str, Any]:
    chunk = {**head, "choices": [choice]}
    if with_usage:
        chunk["usage"] = None
    if neurorit is not None:
        chunk["neurorit"] = neurorit
    return chunk


def _unsupported(outcome: Outcome) -> list[list[int]]:
    """Where the sentences that no passage supports begin and end; none where none were shown."""
    if outcome.abstained or not outcome.hits:
        return []
    spans: Sequence[tuple[int, int]] | None = outcome.unsupported
    if spans is None:
        spans = unsupported_spans(outcome.answer, [hit.passage for hit in outcome.hits])
    return [list(span) for span in spans]


def _cited_ids(outcome: Outcome) -> list[str]:
    if outcome.abstained:
        return []
    passages = [hit.passage for hit in outcome.hits]
    marks = cited(outcome.answer, passages)
    return [p.id for p, mark in zip(passages, marks, strict=True) if mark]
