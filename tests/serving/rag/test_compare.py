"""Base and tuned model side by side, and the noise that is mixed in."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.testclient import TestClient

from neurorit.core.errors import BadInput
from neurorit.data.examples import Passage
from neurorit.model.prompts import PromptTemplate, render_prompt
from neurorit.serving.gateway.app import Gateway, create_app
from neurorit.serving.rag.citations import cited
from neurorit.serving.rag.compare import mixed
from neurorit.serving.rag.pipeline import RagPipeline, Search
from tests.serving.fakes import PASSAGES, Upstream, WordRetriever
from tests.serving.tiny_llama import tiny_tokenizer

QUESTION = "Where was Mira Solden born?"
TOKENIZER = tiny_tokenizer()


def pipeline(upstream: Upstream) -> RagPipeline:
    return RagPipeline(WordRetriever(), TOKENIZER, PromptTemplate(), upstream.client(), top_k=1)


def client(base: Upstream | None, tuned: Upstream, **options: Any) -> TestClient:
    gateway = Gateway("tuned", "ready", pipeline(tuned), **options)
    if base is not None:
        gateway.base_model, gateway.base = "plain", pipeline(base)
    return TestClient(create_app(gateway), raise_server_exceptions=False)


def ids(hits: Any) -> list[str]:
    return [hit.passage.id for hit in hits]


def shown_in(body: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = body["passages"]
    return found


def test_both_answer_the_same_prompt_and_each_says_what_it_cites() -> None:
    base, tuned = Upstream([["Tolm"]]), Upstream([["Karvel"]])
    body = (
        client(base, tuned)
        .post(
            "/v1/rag/compare",
            json={"question": QUESTION, "top_k": 1, "noise": {"distractor": 1, "random": 1}},
        )
        .json()
    )
    assert base.requests[0]["prompt"] == tuned.requests[0]["prompt"]
    by_id = {p["id"]: p for p in shown_in(body)}
    assert by_id["p1"]["kind"] == "retrieved"
    assert by_id["p2"]["kind"] == "distractor"
    assert sorted(p["kind"] for p in shown_in(body)) == ["distractor", "random", "retrieved"]
    shown = [next(p for p in PASSAGES if p.id == one["id"]) for one in shown_in(body)]
    assert tuned.requests[0]["prompt"] == render_prompt(
        TOKENIZER, PromptTemplate(), QUESTION, shown
    )
    sides = {side["system"]: side for side in body["systems"]}
    assert (sides["base"]["answer"], sides["base"]["cited"]) == ("Tolm", ["p2"])
    assert (sides["tuned"]["answer"], sides["tuned"]["cited"]) == ("Karvel", ["p1"])
    assert sides["base"]["model"] == "plain"


def test_an_abstention_is_no_error_and_cites_nothing() -> None:
    body = client(Upstream([[""]]), Upstream([["Karvel"]]))
    found = body.post("/v1/rag/compare", json={"question": QUESTION}).json()
    assert [side["abstained"] for side in found["systems"]] == [True, False]
    assert found["systems"][0]["cited"] == []


def test_noise_is_drawn_by_the_seed_and_never_what_was_retrieved() -> None:
    made = pipeline(Upstream([]))

    def draw(seed: int, **noise: int) -> list[str]:
        return ids(asyncio.run(mixed(made, QUESTION, 1, noise, seed)))

    assert draw(3, random=2) == draw(3, random=2)
    assert len({tuple(draw(seed, random=2)) for seed in range(20)}) > 1
    for seed in range(20):
        found = draw(seed, random=3)
        assert sorted(found) == ["p1", "p2", "p3", "p4"]
    assert draw(0) == ["p1"]


@pytest.mark.parametrize("noise", [{"random": 4}, {"distractor": 4}])
def test_more_noise_than_there_is_is_said(noise: dict[str, int]) -> None:
    with pytest.raises(BadInput, match=r"noise\.(random|distractor)"):
        asyncio.run(mixed(pipeline(Upstream([])), QUESTION, 1, noise, 0))


def test_without_a_second_system_there_is_nothing_to_compare() -> None:
    response = client(None, Upstream([])).post("/v1/rag/compare", json={"question": QUESTION})
    assert response.status_code == 404
    assert "--base" in response.json()["error"]["message"]


def test_one_side_that_fails_fails_the_comparison() -> None:
    response = client(Upstream([], status=503), Upstream([["x"]])).post(
        "/v1/rag/compare", json={"question": QUESTION}
    )
    assert response.status_code == 503
    assert response.json()["error"]["type"] == "upstream_error"


def test_each_is_as_ready_as_its_own_system() -> None:
    base, tuned = Upstream([["Tolm"]], forever=True), Upstream([["Karvel"]], forever=True)
    gateway = Gateway("tuned", "ready", pipeline(tuned), "plain", pipeline(base))
    made = TestClient(create_app(gateway), raise_server_exceptions=False)
    ask = {"messages": [{"role": "user", "content": QUESTION}]}

    def statuses() -> list[int]:
        return [
            made.post("/v1/chat/completions", json={**ask, "model": "tuned"}).status_code,
            made.post("/v1/chat/completions", json={**ask, "model": "plain"}).status_code,
            made.post("/v1/rag/compare", json={"question": QUESTION}).status_code,
            made.get("/ready").status_code,
        ]

    assert statuses() == [200, 200, 200, 200]
    gateway.base_phase = "restarting vLLM"
    assert statuses() == [200, 503, 503, 200]
    told = made.get("/ready").json()
    assert (told["base"], told["base_phase"]) == (None, "restarting vLLM")
    gateway.phase, gateway.base_phase = "restarting vLLM", "ready"
    assert statuses() == [503, 200, 503, 503]


def test_a_comparison_may_choose_how_passages_are_found() -> None:
    both = client(Upstream([["Tolm"]]), Upstream([["Karvel"]]))
    wanted = {"question": QUESTION, "retriever": "dense", "filters": {"title": "Glass"}}
    body = both.post("/v1/rag/compare", json=wanted).json()
    assert [passage["id"] for passage in shown_in(body)] == ["p3"]
    refused = both.post("/v1/rag/compare", json={**wanted, "retriever": "bm25"})
    assert refused.status_code == 400


def test_the_base_can_be_asked_by_its_name() -> None:
    both = client(Upstream([["Tolm"]]), Upstream([["Karvel"]]))
    assert [m["id"] for m in both.get("/v1/models").json()["data"]] == ["tuned", "plain"]
    ask = {"messages": [{"role": "user", "content": QUESTION}]}
    named = both.post("/v1/chat/completions", json={**ask, "model": "plain"}).json()
    assert (named["model"], named["choices"][0]["message"]["content"]) == ("plain", "Tolm")
    assert both.post("/v1/chat/completions", json=ask).json()["model"] == "tuned"


def test_earlier_questions_help_the_search_where_that_is_asked_for() -> None:
    turns = [
        {"role": "user", "content": "Tell me of Edo Varn glassblower"},
        {"role": "assistant", "content": "Gladly."},
        {"role": "user", "content": "And what?"},
    ]

    def first(server: int, **options: Any) -> str:
        made = client(None, Upstream([["x"]]), history=server)
        body = {"messages": turns, "neurorit": {"top_k": 1, **options}}
        answer = made.post("/v1/chat/completions", json=body).json()
        return str(answer["neurorit"]["passages"][0]["id"])

    assert first(0) == "p1"
    assert first(0, history=1) == "p4"
    assert first(1) == "p4"
    assert first(1, history=0) == "p1"


@pytest.mark.parametrize(
    ("answer", "marks"),
    [
        ("Karvel", [True, False]),
        ("Karvel.", [True, False]),
        ("She was born there [2].", [False, True]),
        ("[1][2]", [True, True]),
        ("[7]", [False, False]),
        ("Karvel [7]", [False, False]),
        ("[1, 2]", [True, True]),
        ("The list a[1] of Tolm", [False, False]),
        ("Mira", [True, True]),
        ("Kar", [False, False]),
        ("", [False, False]),
        ("the", [False, False]),
        ("one two three four five six seven eight nine ten eleven twelve Mira", [False, False]),
    ],
)
def test_citations(answer: str, marks: list[bool]) -> None:
    passages = [
        Passage("1", "Mira Solden", "Mira Solden was born in Karvel."),
        Passage("2", "Mira Soldar", "Mira Soldar was born in Tolm."),
    ]
    assert cited(answer, passages) == marks


def test_a_comparison_takes_no_longer_than_its_slower_side() -> None:
    """Both are asked before either has answered."""
    asked: list[str] = []
    both = asyncio.Event()

    class Side(RagPipeline):
        async def answer(self, request: Any) -> Any:
            asked.append("x")
            if len(asked) == 2:
                both.set()
            await asyncio.wait_for(both.wait(), 10)
            return await super().answer(request)

    from neurorit.serving.backends.openai_client import Sampling
    from neurorit.serving.rag.compare import compare

    sides = {
        name: (
            name,
            Side(WordRetriever(), TOKENIZER, PromptTemplate(), Upstream([["x"]]).client()),
            Sampling(),
        )
        for name in ("base", "tuned")
    }
    found = asyncio.run(compare(sides, QUESTION, ()))  # type: ignore[arg-type]
    assert [side.system for side in found.sides] == ["base", "tuned"]


def test_what_is_drawn_at_random_passes_the_filters() -> None:
    class Titled(WordRetriever):
        def variant(self, mode: str = "", filters: Any = None) -> Titled:
            made = Titled()
            made.passages = tuple(p for p in PASSAGES if p.title == (filters or {})["title"])
            made.title = (filters or {})["title"]
            return made

    made = RagPipeline(Titled(), TOKENIZER, PromptTemplate(), Upstream([]).client(), top_k=1)
    search = Search(filters=(("title", "Glass"),))
    for seed in range(10):
        found = asyncio.run(mixed(made, QUESTION, 0, {"random": 1}, seed, search))
        assert ids(found) == ["p3"]
    with pytest.raises(BadInput, match=r"noise\.random"):
        asyncio.run(mixed(made, QUESTION, 0, {"random": 2}, 0, search))
