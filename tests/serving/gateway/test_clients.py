"""Clients that people have, unchanged, over a real port: OpenAI's Python package, LangChain,
LlamaIndex and Vercel's AI SDK. What the last two need is in `clients/`; `make clients` installs it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from neurorit.serving.gateway.app import Gateway, create_app
from tests.serving.fakes import KEY, Upstream
from tests.serving.listening import listening

TEXT = "Where was Mira Solden born?"
QUESTION = [{"role": "user", "content": TEXT}]
SCRIPTS = Path(__file__).parent / "clients"
INSTALLED = Path(sys.prefix) / "clients"
# The base, and an adapter beside it.
MODELS = ("tiny", "city")


@pytest.fixture(scope="module")
def url(beside: Gateway) -> Iterator[str]:
    with listening(create_app(beside, api_keys=[KEY])) as address:
        yield f"{address}/v1"


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
    assert [model.id for model in client.models.list()] == [*MODELS]
    assert client.models.retrieve("city").id == "city"


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


@pytest.mark.parametrize("model", MODELS)
def test_langchain_answers_and_streams(url: str, model: str, upstream: Upstream) -> None:
    from langchain_openai import ChatOpenAI

    before = len(upstream.requests)
    chat = ChatOpenAI(
        base_url=url,
        api_key=KEY,
        model=model,
        max_tokens=16,
        extra_body={"neurorit": {"top_k": 1}},
    )
    answer = chat.invoke(TEXT)
    assert answer.content == "Karvel"
    assert answer.usage_metadata is not None and answer.usage_metadata["output_tokens"] > 0
    assert answer.response_metadata["model_name"] == model
    pieces = list(chat.stream(TEXT))
    assert "".join(str(piece.content) for piece in pieces) == "Karvel"
    assert _asked(upstream, before) == [model] * 2


def test_llama_index_chats_completes_and_streams(url: str, upstream: Upstream) -> None:
    before = len(upstream.requests)
    python = INSTALLED / "llama-index/bin/python"
    got = _got([python, SCRIPTS / "ask_llama_index.py", url, KEY, TEXT, *MODELS])
    kind, said = got.pop("absent")
    assert kind == "NotFoundError" and "'absent' is not served here" in said
    for model in MODELS:
        for key in ("chat_pieces", "complete_pieces", "older_pieces"):
            assert [piece for piece in got[model].pop(key) if piece] == ["Kar", "vel"], key
        assert got[model] == {
            "chat": "Karvel",
            "passages": ["p1", "p2"],
            "complete": "Karvel",
            "older": "Karvel",
        }
    assert _asked(upstream, before) == ["tiny"] * 6 + ["city"] * 6


@pytest.mark.skipif(not shutil.which("npm"), reason="no node with npm on this machine")
def test_vercels_sdk_generates_and_streams(url: str, upstream: Upstream) -> None:
    before = len(upstream.requests)
    with open(SCRIPTS / "ask_vercel.mjs") as script:
        # From its standard input, node looks for packages where it runs.
        got = _got(["node", "--input-type=module", "-", url, KEY, TEXT, *MODELS], script)
    status, said = got.pop("absent")
    assert status == 404 and "'absent' is not served here" in said
    for model in MODELS:
        assert [piece for piece in got[model].pop("pieces") if piece] == ["Kar", "vel"]
        assert got[model] == {
            "whole": "Karvel",
            "reason": "stop",
            "tokens": 2,
            "passages": ["p1", "p2"],
            "streamed_reason": "stop",
            "streamed_tokens": 2,
            "streamed_passages": ["p1", "p2"],
        }
    assert _asked(upstream, before) == ["tiny"] * 2 + ["city"] * 2


def _got(command: list[str | Path], script: Any = None) -> dict[str, Any]:
    """What a client printed, which runs beside the packages of `make clients`."""
    assert (INSTALLED / ".installed").exists(), "make clients installs what this test needs"
    done = subprocess.run(
        command,
        cwd=INSTALLED,
        stdin=script or subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    got: dict[str, Any] = json.loads(done.stdout)
    return got


def _asked(upstream: Upstream, before: int) -> list[str]:
    """Which models the engine was asked for; an adapter goes to it as NAME@DIGEST."""
    return [str(request["model"]).split("@")[0] for request in upstream.requests[before:]]
