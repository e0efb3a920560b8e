"""Replies and errors in the forms of several servers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurorit.core.endpoint.replies import (
    CallFailed,
    Piece,
    content_text,
    error_message,
    read_cards,
    read_piece,
)


def chat(**message: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": "stop"}]}


@pytest.mark.parametrize(
    ("record", "wanted"),
    [
        (chat(content="Rome"), Piece("Rome", "stop")),
        (chat(content=None), Piece("", "stop")),
        (chat(content=[{"type": "text", "text": "Ro"}, {"text": "me"}]), Piece("Rome", "stop")),
        (chat(content=[{"type": "thinking", "thinking": []}, "Rome"]), Piece("Rome", "stop")),
        (
            chat(content=[{"type": "thinking", "thinking": "Hm."}]),
            Piece("", "stop", reasoning="Hm."),
        ),
        (chat(content=None, refusal="I cannot say."), Piece("I cannot say.", "content_filter")),
        (
            chat(content=[{"type": "refusal", "refusal": "No."}]),
            Piece("No.", "content_filter"),
        ),
        (
            chat(content="Rome", reasoning_content="Hm."),
            Piece("Rome", "stop", reasoning="Hm."),
        ),
        (chat(content="", reasoning="Hm."), Piece("", "stop", reasoning="Hm.")),
        (
            {
                "choices": [{"text": "Rome", "finish_reason": "stop", "stop_reason": "\n"}],
                "usage": {"completion_tokens": 2},
                "error": None,
            },
            Piece("Rome", "stop", 2, "\n"),
        ),
        ({"choices": [{"text": "x", "stop_reason": 7}], "usage": None}, Piece("x")),
    ],
)
def test_whole_completions(record: Any, wanted: Piece) -> None:
    assert read_piece(record) == wanted


def test_chunks() -> None:
    assert read_piece({"choices": [{"delta": {"content": "Ro"}}]}, streamed=True) == Piece("Ro")
    assert read_piece({"choices": [{"delta": {}}]}, streamed=True) == Piece("")
    counted = {"choices": [], "usage": {"completion_tokens": 4}}
    assert read_piece(counted, streamed=True) == Piece("", None, 4)
    with pytest.raises(ValueError, match="no completion"):
        read_piece(counted)


@pytest.mark.parametrize(
    "record",
    [None, [], {}, {"choices": [{}]}, {"choices": [None]}, chat(content=7), {"choices": 3}],
)
def test_what_is_no_completion(record: Any) -> None:
    with pytest.raises(ValueError):
        read_piece(record)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "no model m", "type": "x", "code": None}}, "no model m"),
        ({"object": "error", "message": "too\n long", "code": 400}, "too long"),
        ({"error": "Input validation error", "error_type": "validation"}, "Input validation error"),
        ({"error": {"code": 503, "message": "Loading model", "type": "u"}}, "Loading model"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"detail": [{"loc": ["body"], "msg": "field required"}]}, "field required"),
        ({"error": {"message": {"detail": "deep"}}}, "deep"),
        ([{"error": {"message": "in a list"}}], "in a list"),
        ({"error": {}}, ""),
        ({}, ""),
        (7, ""),
    ],
)
def test_error_bodies(body: Any, words: str) -> None:
    assert error_message(body) == error_message(json.dumps(body).encode()) == words


def test_bodies_that_are_no_json() -> None:
    assert error_message(b"upstream connect error") == "upstream connect error"
    assert error_message(b"<html>502 Bad Gateway</html>") == ""
    assert error_message(b"\xff" * 1000)  # cut, and no exception
    assert len(error_message(b"x" * 1000)) == 300


def test_an_error_in_a_completions_place_is_told() -> None:
    with pytest.raises(CallFailed, match="out of memory"):
        read_piece({"error": {"message": "out of memory"}})


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "message", "delta", "content", "text", "error", "usage", "type"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_JSON, st.booleans())
def test_no_reply_brings_another_exception(record: Any, streamed: bool) -> None:
    try:
        piece = read_piece(record, streamed=streamed)
    except (ValueError, CallFailed):
        return
    assert isinstance(piece.text, str)
    assert isinstance(error_message(record), str)


def test_lists_of_models() -> None:
    assert read_cards({"data": [{"id": "m"}]}) == [{"id": "m"}]
    for wrong in (None, {}, {"data": [{}]}, {"data": 3}, {"data": [1]}):
        with pytest.raises(ValueError):
            read_cards(wrong)
    with pytest.raises(ValueError, match="content"):
        content_text({"text": "x"})
