"""Clients that people have: OpenAI's Python package and LangChain, unchanged, over a real port."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.serving.fakes import KEY, Upstream

QUESTION = [{"role": "user", "content": "Where was Mira Solden born?"}]


@pytest.fixture
def url(address: str) -> str:
    return f"{address}/v1"


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as made:
        yield made


def test_openai_chats(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny",
        messages=QUESTION,  # type: ignore[arg-type]
        temperature=0,
        extra_body={"neurorit": {"top_k": 2}},
    )
    assert answer.choices[0].message.content == "Karvel"
    assert answer.usage is not None and answer.usage.completion_tokens > 0
    assert [p["id"] for p in answer.model_extra["neurorit"]["passages"]] == ["p1", "p2"]  # type: ignore[index]
    assert answer.model_extra["neurorit"]["cited"] == ["p1"]  # type: ignore[index]


def test_openai_streams_with_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tiny",
        messages=QUESTION,  # type: ignore[arg-type]
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    texts = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert [text for text in texts if text] == ["Kar", "vel"]
    assert chunks[-1].usage is not None
    assert chunks[-2].choices[0].finish_reason == "stop"


def test_openais_older_interface_answers_and_streams(client: openai.OpenAI) -> None:
    prompt = "Where was Mira Solden born?"
    whole = client.completions.create(model="tiny", prompt=prompt)
    assert whole.choices[0].text == "Karvel"
    assert whole.object == "text_completion"
    pieces = client.completions.create(
        model="tiny", prompt=prompt, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(pieces)
    assert "".join(c.choices[0].text for c in chunks if c.choices) == "Karvel"
    assert chunks[-1].usage is not None


def test_openai_lists_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"


def test_openais_errors_are_its_own_classes(
    client: openai.OpenAI, url: str, upstream: Upstream
) -> None:
    with pytest.raises(openai.NotFoundError, match="is not served here"):
        client.chat.completions.create(model="gpt", messages=QUESTION)  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="tiny", messages=[])
    assert bad.value.param == "messages"
    with (
        openai.OpenAI(base_url=url, api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError) as refused,
    ):
        stranger.models.list()
    assert refused.value.code == "invalid_api_key"
    upstream.status = 503
    try:
        with pytest.raises(openai.InternalServerError, match="answered 503"):
            client.chat.completions.create(model="tiny", messages=QUESTION)  # type: ignore[arg-type]
    finally:
        upstream.status = 200


def test_an_error_within_a_stream_is_raised(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.cut = True
    try:
        with pytest.raises(openai.APIError, match="broke off"):
            list(client.chat.completions.create(model="tiny", messages=QUESTION, stream=True))  # type: ignore[call-overload]
    finally:
        upstream.cut = False


def test_langchain_answers_and_streams(url: str) -> None:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(
        base_url=url,
        api_key=KEY,
        model="tiny",
        max_tokens=16,
        extra_body={"neurorit": {"top_k": 1}},
    )
    answer = model.invoke("Where was Mira Solden born?")
    assert answer.content == "Karvel"
    assert answer.usage_metadata is not None and answer.usage_metadata["output_tokens"] > 0
    pieces = list(model.stream("Where was Mira Solden born?"))
    assert "".join(str(piece.content) for piece in pieces) == "Karvel"
