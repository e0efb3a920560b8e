"""The gateway's routes with a scripted upstream: shapes, streams, refusals, keys, headers."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from neurorit.core.endpoint.replies import Piece
from neurorit.core.errors import BadInput, NeuroritError
from neurorit.model.prompts import PromptTemplate
from neurorit.pipelines.serving.serve import support_of_server
from neurorit.retrieval.retriever import SearchSettings
from neurorit.serving.backends.openai_client import Sampling
from neurorit.serving.gateway.app import Gateway, create_app
from neurorit.serving.gateway.lifecycle import answers_digest
from neurorit.serving.middleware.auth import read_api_keys
from neurorit.serving.middleware.errors import ApiError
from neurorit.serving.rag.pipeline import ABSTAINED, RagPipeline
from neurorit.serving.settings import ServeSettings
from tests.eval.chat_server import said as chat_said
from tests.eval.chat_server import serving
from tests.serving.fakes import Upstream, WordRetriever
from tests.serving.tiny_llama import tiny_tokenizer

QUESTION = {"messages": [{"role": "user", "content": "Where was Mira Solden born?"}]}
TOKENIZER = tiny_tokenizer()


def serve(upstream: Upstream, **options: Any) -> TestClient:
    made = RagPipeline(WordRetriever(), TOKENIZER, PromptTemplate(), upstream.client(), top_k=2)
    app = create_app(Gateway("tiny", "ready", made), **options)
    return TestClient(app, raise_server_exceptions=False)


def ask(upstream: Upstream, **fields: Any) -> Any:
    return serve(upstream).post("/v1/chat/completions", json={**QUESTION, **fields})


def sent(response: Any) -> list[Any]:
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


def error_of(response: Any) -> Any:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert "\n" not in body["error"]["message"]
    return body["error"]


def test_a_chat_completion_has_openais_shape_and_the_neurorit_field() -> None:
    body = ask(Upstream([["Karvel"]]), model="tiny").json()
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    choice = body["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "Karvel", "refusal": None}
    assert choice["finish_reason"] == "stop"
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    field = body["neurorit"]
    assert [p["id"] for p in field["passages"]] == ["p1", "p2"]
    assert [p["rank"] for p in field["passages"]] == [1, 2]
    assert field["passages"][0]["score"] >= field["passages"][1]["score"]
    assert field["abstained"] is False


def test_the_time_of_retrieval_is_told() -> None:
    timing = ask(Upstream([["Karvel"]])).headers["server-timing"]
    assert timing.startswith("retrieval;dur=")
    assert float(timing.partition("=")[2]) > 0


def test_abstention_is_said_in_words_and_in_the_field() -> None:
    body = ask(Upstream([[""]])).json()
    assert body["choices"][0]["message"]["content"] == ABSTAINED
    assert body["neurorit"]["abstained"] is True


def test_a_stream_brings_passages_then_text_then_verdict_then_done() -> None:
    response = ask(Upstream([["Kar", "vel"]]), stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, done = sent(response)
    assert done == "[DONE]"
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [p["id"] for p in chunks[1]["neurorit"]["passages"]] == ["p1", "p2"]
    text = [c["choices"][0]["delta"].get("content", "") for c in chunks[:-1]]
    assert "".join(text) == "Karvel"
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-2]["neurorit"]["abstained"] is False
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] > 0


def test_usage_comes_too_where_the_answer_ends_at_once() -> None:
    upstream = Upstream([[""]], reason="length")
    asked = {"stream": True, "stream_options": {"include_usage": True}}
    *_, last, done = sent(ask(upstream, **asked))
    assert (last["choices"], done) == ([], "[DONE]")
    assert last["usage"]["prompt_tokens"] > 0


def test_what_is_null_is_left_at_its_default() -> None:
    response = ask(Upstream([["Karvel"]]), stream=None, neurorit=None, stream_options=None)
    assert response.json()["choices"][0]["message"]["content"] == "Karvel"


def test_a_search_that_fails_is_a_503_that_may_be_tried_again() -> None:
    class Failing(WordRetriever):
        def search(self, queries: Any, k: int) -> Any:
            raise NeuroritError("the encoder http://inside:1/v1#e failed")

    made = RagPipeline(Failing(), TOKENIZER, PromptTemplate(), Upstream([]).client())
    client = TestClient(create_app(Gateway("tiny", "ready", made)))
    for path, body in (
        ("/v1/retrieve", {"query": "q"}),
        ("/v1/chat/completions", QUESTION),
        ("/v1/chat/completions", {**QUESTION, "stream": True}),
    ):
        response = client.post(path, json=body)
        assert (response.status_code, response.headers["retry-after"]) == (503, "5")
        assert error_of(response)["code"] == "search_failed"
        assert "inside" not in response.text


def test_an_upstream_failure_is_a_status_before_and_an_event_within_a_stream() -> None:
    response = ask(Upstream([], status=503), stream=True)
    assert response.status_code == 503
    assert response.headers["retry-after"]
    assert error_of(response)["type"] == "upstream_error"
    *_, last = sent(ask(Upstream([["Kar", "vel"]], cut=True), stream=True))
    assert last["error"]["type"] == "upstream_error"


def test_any_other_failure_within_a_stream_is_an_event_too() -> None:
    class Failing:
        async def stream(self, *_: object, **__: object) -> AsyncGenerator[Piece, None]:
            yield Piece("Kar")
            raise RuntimeError("secret path")

    made = RagPipeline(WordRetriever(), TOKENIZER, PromptTemplate(), Failing())
    client = TestClient(create_app(Gateway("tiny", "ready", made)), raise_server_exceptions=False)
    response = client.post("/v1/chat/completions", json={**QUESTION, "stream": True})
    *_, text, last = sent(response)
    assert text["choices"][0]["delta"]["content"] == "Kar"
    assert last["error"]["type"] == "server_error"
    assert "secret" not in response.text


def test_options_reach_the_pipeline_and_the_upstream() -> None:
    upstream = Upstream([[""], ["Karvel"]])
    body = ask(
        upstream,
        neurorit={"top_k": 1, "policy": "closed-book"},
        max_completion_tokens=7,
        temperature=0.5,
        stop="\n",
        seed=3,
    ).json()
    assert body["neurorit"]["policy"] == "closed-book"
    assert body["neurorit"]["grounded"] is False
    request = upstream.requests[0]
    assert (request["max_tokens"], request["temperature"]) == (7, 0.5)
    assert (request["stop"], request["seed"]) == (["\n"], 3)


def test_what_no_passage_supports_is_named() -> None:
    said = "Nobody knows Zanzibar. It was in 2931."
    body = ask(Upstream([[said]])).json()
    spans = body["neurorit"]["unsupported"]
    assert [said[start:end] for start, end in spans] == [
        "Nobody knows Zanzibar.", "It was in 2931.",
    ]  # fmt: skip
    passage = body["neurorit"]["passages"][0]["text"]
    assert ask(Upstream([[passage]])).json()["neurorit"]["unsupported"] == []
    # Of a stream the last event with a choice tells it, for the whole answer in its pieces.
    pieces = [said[:9], said[9:30], said[30:]]
    for path, asked in (("chat/completions", QUESTION), ("completions", {"prompt": "Where?"})):
        client = serve(Upstream([pieces]))
        chunks = sent(client.post(f"/v1/{path}", json={**asked, "stream": True}))
        assert chunks.pop() == "[DONE]"
        assert chunks[-1]["neurorit"]["unsupported"] == spans
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
        assert not any("unsupported" in (chunk.get("neurorit") or {}) for chunk in chunks[:-1])


def test_a_judge_settles_what_the_words_leave_in_doubt() -> None:
    """Through the pieces of `serve --judge`, with a judge behind an address; a lost one changes
    nothing."""
    said = "Nobody knows Zanzibar. Karvel was where Solden, in 2931, was born."

    def judge(body: dict[str, Any]) -> tuple[int, Any]:
        text = body["messages"][0]["content"]
        assert "<sentence>Karvel was" in text and "Where was Mira Solden born?" in text
        return chat_said("Yes")

    with serving(judge) as server:
        for place, marked in (
            (f"{server.url}#j", ["Nobody knows Zanzibar."]),
            ("http://127.0.0.1:9/v1#j", [said[:22], said[23:]]),
        ):
            upstream = Upstream([[said]])
            made = RagPipeline(WordRetriever(), TOKENIZER, PromptTemplate(), upstream.client())
            gateway = Gateway("tiny", "ready", made, support=support_of_server(place))
            client = TestClient(create_app(gateway))
            whole = client.post("/v1/chat/completions", json=QUESTION).json()["neurorit"]
            assert [said[a:b] for a, b in whole["unsupported"]] == marked
        assert len(server.requests) == 1
    assert support_of_server("") is None
    with pytest.raises(BadInput, match="write URL/v1#MODEL"):
        support_of_server("http://127.0.0.1:9/v1")


def test_the_last_user_message_is_the_question() -> None:
    upstream = Upstream([["x"]])
    parts = [{"type": "text", "text": "What does Edo Varn do?"}]
    turns = [
        {"role": "system", "content": "Be brief."},
        *QUESTION["messages"],
        {"role": "assistant", "content": "Karvel"},
        {"role": "user", "content": parts},
    ]
    body = ask(upstream, messages=turns).json()
    assert body["neurorit"]["passages"][0]["id"] == "p4"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "  "}]}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"neurorit": {"top_k": 51}}, "neurorit.top_k"),
        ({"neurorit": {"topk": 5}}, "neurorit.topk"),
        ({"neurorit": {"policy": "guess"}}, "neurorit.policy"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"tools": [{}]}, "tools"),
    ],
)
def test_bad_requests_name_the_field(fields: dict[str, Any], param: str) -> None:
    response = ask(Upstream([["x"]]), **fields)
    assert response.status_code == 400
    error = error_of(response)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param


def test_other_refusals_have_the_same_shape() -> None:
    client = serve(Upstream([]))
    assert error_of(client.get("/nothing"))["message"] == "GET /nothing: Not Found"
    assert client.get("/v1/retrieve").status_code == 405
    unknown = client.post("/v1/chat/completions", json={**QUESTION, "model": "gpt"})
    assert (unknown.status_code, error_of(unknown)["code"]) == (404, "model_not_found")
    broken = client.post("/v1/retrieve", content="{", headers={"content-type": "application/json"})
    assert (broken.status_code, error_of(broken)["code"]) == (400, "invalid_json")
    large = client.post("/v1/retrieve", content=b"x" * (ServeSettings.max_body + 1))
    assert large.status_code == 413
    error_of(large)


def test_an_unexpected_failure_tells_nothing_of_the_inside() -> None:
    class Broken(WordRetriever):
        def search(self, queries: Any, k: int) -> Any:
            raise RuntimeError("secret path")

    made = RagPipeline(Broken(), TOKENIZER, PromptTemplate(), Upstream([]).client())
    client = TestClient(create_app(Gateway("t", "ready", made)), raise_server_exceptions=False)
    response = client.post("/v1/retrieve", json={"query": "x"})
    assert response.status_code == 500
    assert "secret" not in response.text
    error_of(response)


def test_retrieve_and_models() -> None:
    client = serve(Upstream([]))
    body = client.post("/v1/retrieve", json={"query": "Edo Varn", "top_k": 1}).json()
    assert [p["id"] for p in body["passages"]] == ["p4"]
    assert [m["id"] for m in client.get("/v1/models").json()["data"]] == ["tiny"]
    assert client.get("/v1/models/tiny").json()["id"] == "tiny"
    assert client.get("/v1/models/other").status_code == 404


def test_models_say_what_their_answers_depend_on(tmp_path: Path) -> None:
    """Another checkpoint, index or way to search is another digest, so evaluation asks anew."""
    client = TestClient(create_app(Gateway("tiny", "ready", digests={"tiny": "abc"})))
    assert client.get("/v1/models").json()["data"][0]["neurorit"] == {"digest": "abc"}
    (tmp_path / "config.json").write_text("{}")
    settings = ServeSettings()
    first = answers_digest(tmp_path, "index", settings)
    assert first == answers_digest(tmp_path, "index", replace(settings, port=1, top_k=9))
    others = {
        answers_digest(tmp_path, "other index", settings),
        answers_digest(tmp_path, "index", replace(settings, search=SearchSettings(mode="bm25"))),
        answers_digest(tmp_path, "index", replace(settings, min_score=0.4)),
    }
    (tmp_path / "config.json").write_text('{"trained": true}')
    others.add(answers_digest(tmp_path, "index", settings))
    assert len(others | {first}) == 5


def test_what_was_taken_away_while_a_search_waited_is_not_answered_by_the_base() -> None:
    gateway = Gateway("tiny", "ready", base_model="base")
    for name in ("tiny", "base"):
        with gateway.written_by(name, Sampling()) as sampling:
            assert sampling == Sampling()
    with (
        pytest.raises(ApiError, match="'gone' is not served here"),
        gateway.written_by("gone", Sampling()),
    ):
        raise AssertionError("it was answered")


def test_a_request_chooses_its_filters_and_way_to_search() -> None:
    wanted = {"retriever": "dense", "filters": {"title": "Glass"}, "top_k": 3}
    body = ask(Upstream([["Karvel"]]), neurorit=wanted).json()
    assert [p["id"] for p in body["neurorit"]["passages"]] == ["p3"]
    client = serve(Upstream([]))
    found = client.post("/v1/retrieve", json={"query": "born", **wanted}).json()
    assert [p["id"] for p in found["passages"]] == ["p3"]
    refused = client.post("/v1/retrieve", json={"query": "born", "retriever": "bm25"})
    assert refused.status_code == 400
    assert "not loaded" in error_of(refused)["message"]
    many = {str(i): "x" for i in range(11)}
    assert client.post("/v1/retrieve", json={"query": "a", "filters": many}).status_code == 400


def test_before_it_is_ready_the_phase_is_told() -> None:
    client = TestClient(create_app(Gateway("tiny", "warming up vLLM")))
    assert client.get("/health").json() == {"status": "ok"}
    ready = client.get("/ready")
    assert ready.status_code == 503
    told: dict[str, Any] = {"ready": False, "phase": "warming up vLLM", "model": "tiny"}
    told |= {"base": None, "base_phase": None, "adapters": []}
    assert ready.json() == told
    refused = client.post("/v1/chat/completions", json=QUESTION)
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    assert "warming up vLLM" in error_of(refused)["message"]
    assert serve(Upstream([])).get("/ready").json()["ready"] is True


OPEN = {"/health", "/ready", "/", "/static"}


def test_every_route_but_health_and_the_page_asks_for_the_key() -> None:
    client = serve(Upstream([["x"]]), api_keys={"right", "other"})
    routes = {r.path: getattr(r, "methods", None) or {"GET"} for r in client.app.routes}  # type: ignore[attr-defined]
    guarded = set(routes) - OPEN
    assert len(guarded) >= 7
    assert set(routes) >= OPEN, "an open route is gone: take it out of this list too"
    wrong = ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic right"})
    for path in guarded:
        for method in routes[path]:
            for headers in wrong:
                response = client.request(method, path, headers=headers)
                assert response.status_code == 401, (method, path, headers)
                assert response.headers["www-authenticate"] == "Bearer"
                if method != "HEAD":
                    assert error_of(response)["code"] == "invalid_api_key"
    for key in ("right", "other"):
        allowed = client.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
        assert allowed.status_code == 200
    for path in ("/health", "/ready", "/", "/static/app.js"):
        assert client.get(path).status_code == 200


def test_a_name_that_others_may_point_here_reaches_no_passage() -> None:
    client = serve(Upstream([["Karvel"]] * 9), hosts=("::1", "rag.internal"))

    def asked(host: str, path: str = "/v1/models") -> Any:
        return client.get(path, headers={"Host": host})

    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", "RAG.internal:80", "localhost."):
        assert asked(host).status_code == 200
    for host in ("evil.example", "localhost.evil.example:8000", "127.0.0.1.evil.example"):
        response = asked(host)
        assert response.status_code == 421
        assert "--allowed-host" in error_of(response)["message"]
        assert asked(host, "/metrics").status_code == 421
        assert asked(host, "/health").status_code == 200


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import hmac

    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def spy(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return real(a, b)

    monkeypatch.setattr("neurorit.serving.middleware.auth.hmac.compare_digest", spy)
    client = serve(Upstream([]), api_keys={"one", "a-much-longer-key"})
    client.get("/v1/models", headers={"Authorization": "Bearer one"})
    # All keys, whichever matched, and always digests of one length.
    assert compared == [(32, 32)] * 2


def test_no_secret_is_ever_logged(caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    import logging

    caplog.set_level(logging.DEBUG)
    secret, question = "sk-very-secret-1", "What is the private question?"
    upstream = Upstream([["x"]], forever=True)
    client = serve(upstream, api_keys={secret})
    body = {"messages": [{"role": "user", "content": question}]}
    for headers in ({"Authorization": f"Bearer {secret}"}, {"Authorization": "Bearer sk-guess"}):
        client.post("/v1/chat/completions", json=body, headers=headers)
        client.post("/v1/chat/completions", json={**body, "n": 9}, headers=headers)
        client.post("/v1/retrieve", content="{", headers=headers)
    upstream.status = 500
    client.post("/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {secret}"})
    written = caplog.text + "".join(capfd.readouterr())
    for text in (secret, "sk-guess", "Bearer", "secret", question):
        # `secret` alone is also the upstream's own key in the fakes.
        assert text not in written


def test_keys_are_read_from_file_and_environment(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURORIT_API_KEYS", "one, two,")
    path = tmp_path / "keys"
    path.write_text("# ours\nthree\n\n")
    assert read_api_keys(path) == {"one", "two", "three"}
    for marked in ("utf-8-sig", "utf-16"):  # as an editor of Windows saves them
        path.write_bytes("three\r\n".encode(marked))
        assert read_api_keys(path) == {"one", "two", "three"}
    path.write_text("# none\n")
    with pytest.raises(Exception, match="holds no key"):
        read_api_keys(path)
    with pytest.raises(Exception, match="no such file"):
        read_api_keys(tmp_path / "absent")
    for nothing in ("", " , "):  # a variable that was meant to close the server leaves it open
        monkeypatch.setenv("NEURORIT_API_KEYS", nothing)
        with pytest.raises(BadInput, match="is set and holds no key"):
            read_api_keys(None)
    monkeypatch.delenv("NEURORIT_API_KEYS")
    assert read_api_keys(None) == frozenset()


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/static/style.css", "/v1/models", "/x"])
def test_every_response_has_the_strict_headers(path: str) -> None:
    headers = serve(Upstream([])).get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"


def test_the_page_is_self_contained_and_never_sets_html() -> None:
    client = serve(Upstream([]))
    html, script = client.get("/").text, client.get("/static/app.js").text
    assert "http://" not in html and "https://" not in html
    assert " style=" not in html and "onclick" not in html
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert way not in script


def test_an_abstention_says_why_and_what_was_near() -> None:
    body = ask(Upstream([]), neurorit={"min_score": 5}).json()
    assert body["neurorit"]["reason"] == "no passage above 5"
    assert [p["id"] for p in body["neurorit"]["nearest"]] == ["p1", "p2"]
    assert body["neurorit"]["passages"] == []
    *_, last, _ = sent(ask(Upstream([[""]]), stream=True))
    assert (last["neurorit"]["reason"], last["neurorit"]["nearest"]) == ("model ended", [])
    assert ask(Upstream([["x"]])).json()["neurorit"]["reason"] is None
