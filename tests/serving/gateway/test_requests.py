"""What the gateway makes of a request's fields: passed on, ignored, or refused by name."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from starlette.testclient import TestClient

from neurorit.model.prompts import PromptTemplate
from neurorit.serving.gateway.app import Gateway, create_app
from neurorit.serving.gateway.requests import ChatRequest
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
        {"guided_regex": HALF},
        {"guided_choice": [HALF]},
        {"structured_outputs": {"grammar": HALF}},
        {"guided_json": {"title": HALF}},
        {"chat_template_kwargs": {"x": HALF}},
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


def test_fields_of_vllms_own_reach_a_vllm() -> None:
    upstream = Upstream([["x"]], forever=True)
    fields = {"top_k": 7, "min_p": 0.1, "repetition_penalty": 1.2, "min_tokens": 2}
    given = {**QUESTION, **fields, "ignore_eos": True, "structured_outputs": {"choice": ["a"]}}
    assert post(serve(upstream), given).status_code == 200
    sent = upstream.requests[0]
    assert {name: sent[name] for name in fields} == fields
    assert sent["structured_outputs"] == {"choice": ["a"]}
    # The end token is the gateway's own stop: it would end what is not to end.
    assert (sent["ignore_eos"], sent["stop_token_ids"]) == (True, [])
    schema = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 5}}}
    for name, value in (("json", schema), ("regex", "[a-z]{1,9}"), ("choice", ["a", "b"])):
        assert post(serve(upstream), {**QUESTION, f"guided_{name}": value}).status_code == 200
        assert upstream.requests[-1]["structured_outputs"] == {name: value}
        assert upstream.requests[-1]["stop_token_ids"] != []


def test_a_server_that_is_no_vllm_gets_none_of_them() -> None:
    upstream = Upstream([["x"]])
    made = RagPipeline(
        WordRetriever(), TOKENIZER, PromptTemplate(), upstream.client(), of_vllm=False
    )
    client = TestClient(create_app(Gateway("tiny", "ready", made)))
    refused = post(client, {**QUESTION, "min_p": 0.1})
    assert refused.status_code == 400
    assert "min_p: a field of vLLM's" in refused.json()["error"]["message"]
    assert post(client, QUESTION).status_code == 200


ROUND = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"not": {"$ref": "#"}}}}
LINKS = {f"n{i}": {"$ref": f"#/$defs/n{i + 1}"} for i in range(500)}
CHAIN = {"$ref": "#/$defs/n0", "$defs": {**LINKS, "n500": {}}}


def test_a_schema_may_hold_itself_where_a_value_is_between() -> None:
    tree = {"properties": {"name": {"const": {"$ref": "#"}}, "children": {"$ref": "#/$defs/x~1y"}}}
    twice = {"anyOf": [{"$ref": "#/$defs/leaf"}, {"$ref": "#/$defs/leaf"}]}
    tree["$defs"] = {"x/y": {"items": {"$ref": "#"}}, "leaf": {"type": "string"}, "both": twice}
    upstream = Upstream([["{}"]])
    assert post(serve(upstream), {**QUESTION, "guided_json": tree}).status_code == 200
    assert upstream.requests


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"structured_outputs": {}}, "name exactly one"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "name exactly one"),
        ({"structured_outputs": {"regexp": "a"}}, "no such option"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "held to one form"),
        ({"guided_choice": ["a"], "response_format": {"type": "json_object"}}, "held to one form"),
        ({"guided_regex": "("}, "cannot be read"),
        ({"guided_regex": "(a{1,999}){1,999}"}, "repeats more than 1000 times"),
        ({"guided_json": {"minLength": 10**9}}, "minLength in the schema is above 1000"),
        ({"guided_json": {"items": {"pattern": "a{100000}"}}}, "repeats more than"),
        ({"guided_json": "[]"}, "a schema is an object"),
        ({"guided_json": {"$ref": "#"}}, "leads back to itself"),
        ({"guided_json": {"items": {"anyOf": [{}, {"$ref": "#/items"}]}}}, "leads back to itself"),
        ({"guided_json": ROUND}, "leads back to itself"),
        ({"guided_json": CHAIN}, "follow each other"),
        ({"guided_json": {"$ref": "http://127.0.0.1:1/schema"}}, "is no path in it"),
        ({"guided_json": {"$ref": "#/$defs/absent"}}, "'#/$defs/absent' is not there"),
        ({"guided_json": {"items": {"$dynamicRef": "#x"}}}, "only $ref is followed"),
        ({"guided_choice": []}, "at least 1"),
        ({"chat_template_kwargs": {"tokenize": True}}, "the server's to say"),
        ({"chat_template_kwargs": {"x": "<|im_end|>"}}, "a short text of letters"),
        ({"min_p": 2}, "must be at most 1"),
        ({"top_k": "many"}, "must be a whole number"),
    ],
)
def test_forms_that_would_take_an_engine_down_or_mean_nothing_are_refused(
    fields: dict[str, Any], told: str
) -> None:
    upstream = Upstream([])
    refused = post(serve(upstream), {**QUESTION, **fields})
    assert refused.status_code == 400, refused.text
    assert told in refused.json()["error"]["message"]
    assert upstream.requests == []


def test_a_schema_that_is_nested_without_end_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(40):
        schema = {"items": schema}
    refused = post(serve(Upstream([])), {**QUESTION, "guided_json": schema})
    assert "nested deeper" in refused.json()["error"]["message"]


def test_what_a_chat_template_is_told_reaches_it() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{{ 'deep ' if effort == 'high' }}{% for m in messages %}<|user|>{{ m['content'] }}"
        "{% endfor %}"
    )
    upstream = Upstream([["x"]], forever=True)
    made = RagPipeline(WordRetriever(), tokenizer, PromptTemplate(), upstream.client(), top_k=1)
    client = TestClient(create_app(Gateway("tiny", "ready", made)))
    lengths = []
    for told in ({"effort": "low"}, {"effort": "high"}):
        assert post(client, {**QUESTION, "chat_template_kwargs": told}).status_code == 200
        prompt: Any = upstream.requests[-1]["prompt"]
        lengths.append(len(prompt))
    assert lengths[1] > lengths[0]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content.0: a part of type 'image_url' cannot be read: this server",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "messages.0.content.0: a part of type 'input_audio' cannot be read",
        ),
        ({"tools": [{}]}, "tools: this server calls no tools"),
        ({"modalities": ["audio"]}, "this server writes text alone"),
        ({"audio": {}}, "audio: this server writes text, and no audio"),
        ({"temperature": "hot"}, "temperature: must be a number"),
        ({"temperature": 3}, "temperature: must be at most 2"),
        ({"max_tokens": 1.5}, "max_tokens: must be a whole number"),
        ({"stream": 7}, "stream: must be true or false"),
        ({"messages": "Hi"}, "messages: must be a list"),
        ({"messages": []}, "messages: must have at least 1"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content: must be"),
        ({"messages": [{"content": "x"}]}, "messages.0.role: is missing"),
        ({"stop": 7}, "stop: must be"),
        ({"neurorit": {"policy": "guess"}}, "neurorit.policy: must be 'abstain', 'closed-book' or"),
        ({"neurorit": {"filters": {"year": [1]}}}, "a filter's value is a text"),
    ],
)
def test_refusals_are_in_plain_words(fields: dict[str, Any], told: str) -> None:
    refused = post(serve(Upstream([])), {**QUESTION, **fields})
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert told in error["message"], error
    for python in ("[", "function-", "Input should", "TextPart", "constrained"):
        assert python not in error["param"], error
        assert python not in error["message"], error


def test_what_found_no_room_is_told() -> None:
    upstream = Upstream([["x"]], forever=True)
    made = RagPipeline(
        WordRetriever(), TOKENIZER, PromptTemplate(), upstream.client(), top_k=4, context=200
    )
    client = TestClient(create_app(Gateway("tiny", "ready", made)))
    turns = [
        {"role": "system", "content": "Be brief. " * 400},
        {"role": "user", "content": "Old. " * 400},
        {"role": "assistant", "content": "Yes. " * 400},
        *QUESTION["messages"],
    ]
    left = post(client, {"messages": turns, "max_tokens": 8}).json()["neurorit"]["left_out"]
    assert (left["system"], left["turns"]) == (True, 2)
    plain = post(client, {**QUESTION, "max_tokens": 8, "neurorit": {"top_k": 1}}).json()
    assert plain["neurorit"]["left_out"] == {"turns": 0, "passages": 0, "system": False}


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
        ("topk", "did you mean top_k?"),
        ("guided_regexp", "did you mean guided_regex?"),
        ("retriever", "it belongs elsewhere"),
        ("use_beam_search", "no such option"),
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


# Of vLLM, TGI, llama.cpp, Ollama, LiteLLM and Cohere: fields that this server does not know.
FOREIGN = (
    "use_beam_search length_penalty early_stopping prompt_logprobs add_special_tokens documents "
    "mirostat typical_p top_a tfs_z cache_prompt n_predict num_ctx num_predict keep_alive "
    "repeat_penalty repeat_last_n details decoder_input_details watermark do_sample "
    "best_of_sequences api_base fallbacks mock_response citation_quality connectors preamble "
    "safety_mode guardrails truncate_prompt_tokens spaces_between_special_tokens "
    "skip_special_tokens include_stop_str_in_output stop_token_ids bad_words allowed_token_ids "
    "echo_prompt priority request_id kv_transfer_params vllm_xargs mm_processor_kwargs"
)


def test_500_misspelt_and_foreign_fields_are_each_refused_by_name() -> None:
    known = set(ChatRequest.model_fields)
    misspelt = {
        mistake
        for name in known
        for at in range(1, len(name))
        for mistake in (
            name[:at] + name[at + 1 :],
            name[:at] + name[at] + name[at:],
            name[: at - 1] + name[at] + name[at - 1] + name[at + 1 :],
        )
    } - known
    fields = [*FOREIGN.split(), *random.Random(0).sample(sorted(misspelt), 500)]
    upstream = Upstream([])
    client = serve(upstream)
    for field in fields:
        refused = post(client, {**QUESTION, field: 1})
        assert refused.status_code == 400
        error = refused.json()["error"]
        assert error["param"] == field and "no such option" in error["message"], error
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
