"""`/v1/responses`: OpenAI's own client, whole and streamed; what is refused; pages elsewhere."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from starlette.testclient import TestClient

from neurorit.core.errors import BadInput
from neurorit.model.prompts import PromptTemplate
from neurorit.serving.gateway.app import Gateway, create_app
from neurorit.serving.rag.pipeline import RagPipeline
from neurorit.serving.settings import ServeSettings
from tests.serving.fakes import KEY, Upstream, WordRetriever
from tests.serving.tiny_llama import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
QUESTION = "Where was Mira Solden born?"


def serve(upstream: Upstream, **options: Any) -> TestClient:
    made = RagPipeline(WordRetriever(), TOKENIZER, PromptTemplate(), upstream.client(), top_k=2)
    app = create_app(Gateway("tiny", "ready", made), **options)
    return TestClient(app, raise_server_exceptions=False)


def post(upstream: Upstream, **fields: Any) -> Any:
    return serve(upstream).post("/v1/responses", json={"input": QUESTION, **fields})


def test_openais_client_reads_the_whole_and_the_stream(address: str) -> None:
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0) as client:
        whole = client.responses.create(model="tiny", input=QUESTION, instructions="Be brief.")
        assert (whole.output_text, whole.status) == ("Karvel", "completed")
        assert whole.usage is not None and whole.usage.total_tokens > 0
        found: Any = whole.model_extra
        assert found["neurorit"]["passages"][0]["id"] == "p1"
        events = list(client.responses.create(model="tiny", input=QUESTION, stream=True))
        assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == (
            "Karvel"
        )
        assert [event.type for event in events][-1] == "response.completed"
        numbers = [event.sequence_number for event in events]
        assert numbers == list(range(len(events)))
        with client.responses.stream(model="tiny", input=QUESTION) as stream:
            for _ in stream:
                pass
            assert stream.get_final_response().output_text == "Karvel"
        with pytest.raises(openai.BadRequestError, match="keeps no responses"):
            client.responses.create(model="tiny", input="x", previous_response_id=whole.id)


def test_an_answer_goes_back_as_it_came_and_the_chat_reaches_the_model() -> None:
    upstream = Upstream([["A glassblower."], ["Karvel"]])
    client = serve(upstream)
    first = client.post("/v1/responses", json={"input": "Who is Edo Varn?"}).json()
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "Who is Edo Varn?"}]},
        *first["output"],
        {"role": "user", "content": QUESTION},
    ]
    assert client.post("/v1/responses", json={"input": turns}).status_code == 200
    prompt: Any = upstream.requests[1]["prompt"]
    text = TOKENIZER.decode(prompt)
    places = [
        text.find(part) for part in ("Be brief.", "Who is Edo", "A glassblower.", "Where was Mira")
    ]
    assert -1 not in places and places == sorted(places)


def test_an_answer_that_was_cut_is_incomplete() -> None:
    body = post(Upstream([["Kar"]], reason="length"), max_output_tokens=3).json()
    assert (body["status"], body["incomplete_details"]) == (
        "incomplete",
        {"reason": "max_output_tokens"},
    )
    lines = post(Upstream([["Kar"]], reason="length"), stream=True).text.split("\n\n")
    assert lines[-2].startswith("event: response.incomplete\n")


def test_the_last_event_of_a_stream_names_what_no_passage_supports() -> None:
    said = "Nobody knows Zanzibar. It was in 2931."
    whole = post(Upstream([[said]])).json()["neurorit"]["unsupported"]
    assert [said[start:end] for start, end in whole] == [
        "Nobody knows Zanzibar.", "It was in 2931.",
    ]  # fmt: skip
    events = post(Upstream([[said[:9], said[9:30], said[30:]]]), stream=True).text.split("\n\n")
    told = [json.loads(event.partition("data: ")[2]) for event in events if "data: {" in event]
    assert told[-1]["type"] == "response.completed"
    assert told[-1]["response"]["neurorit"]["unsupported"] == whole
    assert sum("unsupported" in event for event in events) == 1


def test_what_writes_reaches_the_model() -> None:
    upstream = Upstream([["{}"]])
    form = {"type": "json_schema", "name": "a", "schema": {"type": "object"}}
    assert post(upstream, text={"format": form}, temperature=0.5, top_k=3).status_code == 200
    sent = upstream.requests[0]
    assert (sent["temperature"], sent["top_k"]) == (0.5, 3)
    schema = {"name": "a", "schema": {"type": "object"}}
    assert sent["response_format"] == {"type": "json_schema", "json_schema": schema}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"input": []}, "input: must have at least 1"),
        ({"input": [{"role": "assistant", "content": "Hi"}]}, "no question"),
        ({"input": [{"type": "function_call_output", "call_id": "x"}]}, "function_call_output"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "a part of type 'input_image' cannot be read",
        ),
        ({"tools": [{"type": "web_search"}]}, "this server calls no tools"),
        ({"background": True}, "nothing in the background"),
        ({"inputs": "x"}, "did you mean input?"),
        ({"max_output_tokens": 10**6}, "at most 4096 tokens"),
        ({"model": "other"}, "is not served here"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(fields: dict[str, Any], told: str) -> None:
    upstream = Upstream([])
    refused = post(upstream, **fields)
    assert refused.status_code in (400, 404)
    assert told in refused.json()["error"]["message"], refused.text
    assert upstream.requests == []


def test_failures_are_a_status_before_and_an_event_within_a_stream() -> None:
    assert post(Upstream([], status=503), stream=True).status_code == 503
    events = post(Upstream([["Kar", "vel"]], cut=True), stream=True).text.split("\n\n")
    kind, data = events[-2].split("\n")
    assert kind == "event: error"
    assert json.loads(data.removeprefix("data: "))["code"] == "upstream_error"


def test_pages_of_named_origins_alone_may_ask() -> None:
    client = serve(Upstream([["x"]]), origins=["https://app.example"], api_keys=["right"])
    asking = {"Access-Control-Request-Method": "POST"}
    asking["Access-Control-Request-Headers"] = "authorization,content-type"
    for origin, allowed in (("https://app.example", True), ("https://evil.example", False)):
        told = client.options("/v1/chat/completions", headers={**asking, "Origin": origin})
        assert (told.headers.get("access-control-allow-origin") == origin) is allowed
        headers = {"Origin": origin, "Authorization": "Bearer right"}
        given = client.get("/v1/models", headers=headers)
        assert (given.headers.get("access-control-allow-origin") == origin) is allowed
    plain = serve(Upstream([]))
    told = plain.options("/v1/models", headers={**asking, "Origin": "https://app.example"})
    assert "access-control-allow-origin" not in told.headers


@pytest.mark.parametrize("origin", ["*", "app.example", "https://app.example/", "null"])
def test_an_origin_of_another_form_is_refused(origin: str) -> None:
    with pytest.raises(BadInput, match="an origin is a scheme and a name"):
        ServeSettings(allowed_origins=(origin,))
