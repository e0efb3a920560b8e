"""What the gateway makes of a request's fields: passed on, ignored, or refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from neurorit.model.prompts import PromptTemplate
from neurorit.serving.gateway.app import Gateway, create_app
from neurorit.serving.rag.pipeline import RagPipeline
from tests.serving.fakes import Upstream, WordRetriever
from tests.serving.tiny_llama import tiny_tokenizer

QUESTION = {"messages": [{"role": "user", "content": "Where was Mira Solden born?"}]}
TOKENIZER = tiny_tokenizer()
HALF = "\ud800"


def serve(upstream: Upstream, name: str = "tiny", **settings: Any) -> TestClient:
    made = RagPipeline(WordRetriever(), TOKENIZER, PromptTemplate(), upstream.client(), top_k=2)
    gateway = Gateway(name, "ready", made, **settings)
    return TestClient(create_app(gateway), raise_server_exceptions=False)


def post(client: TestClient, body: Any, path: str = "/v1/chat/completions") -> Any:
    return client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})


@pytest.mark.parametrize(
    "fields",
    [
        {"stop": HALF},
        {"stop": [HALF]},
        {"model": HALF},
        {"messages": [{"role": "user", "content": HALF}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": HALF}]}]},
        {"neurorit": {"filters": {"title": HALF}}},
        {"neurorit": {"filters": {HALF: "x"}}},
        {"neurorit": {HALF: 1}},
        {"stop": ["a", "b", "c", "d", "e"]},
        {"stop": "x" * 1000},
        {"response_format": {"type": "json_schema", "json_schema": {"name": HALF}}},
    ],
)
def test_what_is_no_text_or_too_much_of_it_is_a_400(fields: dict[str, Any]) -> None:
    response = post(serve(Upstream([["x"]])), {**QUESTION, **fields})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": HALF}),
        ("/v1/retrieve", {"query": HALF}),
        ("/v1/rag/compare", {"question": HALF}),
    ],
)
def test_on_every_route(path: str, body: dict[str, Any]) -> None:
    assert post(serve(Upstream([["x"]])), body, path).status_code == 400


def test_fields_that_vllm_can_honour_reach_it() -> None:
    upstream = Upstream([["x"]])
    schema = {"name": "answer", "schema": {"type": "object"}}
    fields = {
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "logit_bias": {"7": -100},
        "response_format": {"type": "json_schema", "json_schema": schema},
        "stop": ["a", "b"],
    }
    assert post(serve(upstream), {**QUESTION, **fields}).status_code == 200
    for name, value in fields.items():
        assert upstream.requests[0][name] == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logprobs", True),
        ("top_logprobs", 2),
        ("tools", [{}]),
        ("tool_choice", "required"),
        ("functions", [{}]),
        ("function_call", {"name": "f"}),
        ("modalities", ["audio"]),
        ("audio", {"voice": "x"}),
        ("response_format", {"type": "grammar"}),
        ("logit_bias", {"word": 1}),
        ("n", 2),
    ],
)
def test_fields_that_it_cannot_honour_are_refused_by_name(name: str, value: Any) -> None:
    response = post(serve(Upstream([["x"]])), {**QUESTION, name: value})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"].split(".")[0] == name and name in error["message"]
    refused = post(serve(Upstream([["x"]])), {"prompt": "x", "logprobs": 1}, "/v1/completions")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "logprobs")


def test_fields_that_change_nothing_are_ignored() -> None:
    fields = {"user": "u", "metadata": {}, "store": False, "tools": [], "tool_choice": "auto"}
    fields |= {"logprobs": False, "modalities": ["text"], "response_format": {"type": "text"}}
    assert post(serve(Upstream([["x"]])), {**QUESTION, **fields}).status_code == 200


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("temprature", "did you mean temperature?"),
        ("max_token", "did you mean max_tokens?"),
        ("neurorits", "did you mean neurorit?"),
        ("top_k", "it belongs elsewhere"),
        ("guided_regex", "no such option"),
        ("structured_outputs", "no such option"),
        ("min_p", "no such option"),
    ],
)
def test_a_field_that_nobody_knows_is_refused_by_name(field: str, told: str) -> None:
    upstream = Upstream([])
    for path, body in (("chat/completions", QUESTION), ("completions", {"prompt": "Who?"})):
        refused = serve(upstream).post(f"/v1/{path}", json={**body, field: 1})
        assert refused.status_code == 400
        error = refused.json()["error"]
        assert error["param"] == field and told in error["message"], error
    assert upstream.requests == []


def test_an_assistants_turn_may_be_empty_and_a_tools_is_refused() -> None:
    called = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    turns = [{"role": "user", "content": "Hi"}, called, *QUESTION["messages"]]
    assert post(serve(Upstream([["x"]])), {"messages": turns}).status_code == 200
    for turn in ({"role": "tool", "content": "42"}, {"role": "user", "content": None}):
        refused = post(serve(Upstream([])), {"messages": [turn, *QUESTION["messages"]]})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"].startswith("messages.0")


def test_a_chat_reaches_the_model_with_its_turns() -> None:
    upstream = Upstream([["x"]])
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who is Edo Varn?"},
        {"role": "assistant", "content": "A glassblower."},
        *QUESTION["messages"],
    ]
    post(serve(upstream), {"messages": turns})
    prompt: Any = upstream.requests[0]["prompt"]
    text = TOKENIZER.decode(prompt)
    places = [text.find(turn["content"]) for turn in turns]
    assert -1 not in places and places == sorted(places)
    assert text.count("Mira Solden was born in Karvel") == 1


def test_the_search_sees_the_question_first_and_then_earlier_ones() -> None:
    seen: list[str] = []

    class Watching(WordRetriever):
        def search(self, queries: Any, k: int) -> Any:
            seen.extend(queries)
            return super().search(queries, k)

    made = RagPipeline(Watching(), TOKENIZER, PromptTemplate(), Upstream([["x"]]).client(), top_k=1)
    client = TestClient(create_app(Gateway("tiny", "ready", made, history=2)))
    turns = [{"role": "user", "content": text} for text in ("first", "second", "third", "last")]
    post(client, {"messages": turns})
    assert seen == ["last\nthird\nsecond"]


def test_limits_of_tokens_are_the_servers_own() -> None:
    client = serve(Upstream([["x"]], forever=True), max_tokens_limit=100)
    for name in ("max_tokens", "max_completion_tokens"):
        assert post(client, {**QUESTION, name: 100}).status_code == 200
        refused = post(client, {**QUESTION, name: 101})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == name
        assert "at most 100 tokens" in refused.json()["error"]["message"]


def test_a_models_name_may_hold_slashes() -> None:
    client = serve(Upstream([]), "org/tuned")
    assert client.get("/v1/models/org/tuned").json()["id"] == "org/tuned"
    assert client.get("/v1/models/org/other").status_code == 404


@pytest.mark.parametrize(("reason", "stop_reason"), [("length", None), ("stop", "\n")])
def test_an_empty_answer_that_was_cut_or_stopped_is_no_abstention(
    reason: str, stop_reason: str | None
) -> None:
    upstream = Upstream([[""]], reason=reason, stop_reason=stop_reason)
    body = post(serve(upstream), {**QUESTION, "neurorit": {"policy": "deeper"}}).json()
    assert body["choices"][0]["message"]["content"] == ""
    assert body["choices"][0]["finish_reason"] == reason
    assert body["neurorit"]["abstained"] is False
    assert len(upstream.requests) == 1


def test_tokens_of_a_stream_are_those_that_the_upstream_counted() -> None:
    upstream = Upstream([["Kar", "v", "el"]])
    asked = {**QUESTION, "stream": True, "stream_options": {"include_usage": True}}
    response = post(serve(upstream), asked)
    lines = [line[6:] for line in response.text.split("\n\n") if line]
    assert upstream.requests[0]["stream_options"] == {"include_usage": True}
    assert lines[-1] == "[DONE]"
    assert json.loads(lines[-2])["usage"]["completion_tokens"] == 3
    plain = post(serve(Upstream([["x"]])), {**QUESTION, "stream": True}).text
    assert '"usage"' not in plain
