"""The pipeline with a scripted upstream: prompts, policies, limits, early leaving."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from neurorit.core.endpoint.replies import CallFailed, Piece
from neurorit.core.errors import BadInput
from neurorit.model.prompts import PromptTemplate, render_prompt
from neurorit.serving.backends.openai_client import Sampling
from neurorit.serving.middleware.errors import upstream_refusal
from neurorit.serving.rag.pipeline import (
    ABSTAINED,
    Outcome,
    RagPipeline,
    Request,
    Retrieved,
    Search,
    Text,
)
from tests.serving.fakes import PASSAGES, Upstream, WordRetriever
from tests.serving.tiny_llama import tiny_tokenizer

QUESTION = "Where was Mira Solden born?"
TOKENIZER = tiny_tokenizer()


def pipeline(upstream: Upstream, **settings: Any) -> RagPipeline:
    return RagPipeline(
        WordRetriever(), TOKENIZER, PromptTemplate(), upstream.client(), top_k=2, **settings
    )


def outcome(upstream: Upstream, request: Request, **settings: Any) -> Outcome:
    return asyncio.run(pipeline(upstream, **settings).answer(request))


def test_the_prompt_is_the_shared_renderers_and_the_end_token_stops() -> None:
    upstream = Upstream([[" Kar", "vel"]])
    result = outcome(upstream, Request(QUESTION))
    ids = render_prompt(TOKENIZER, PromptTemplate(), QUESTION, PASSAGES[:2])
    assert upstream.requests[0]["prompt"] == ids
    assert upstream.requests[0]["stop_token_ids"] == [TOKENIZER.convert_tokens_to_ids("<|end|>")]
    assert upstream.requests[0]["temperature"] == 0
    assert result.answer == "Karvel"
    assert (result.abstained, result.grounded, result.attempts) == (False, True, 1)
    assert result.prompt_tokens == len(ids)
    assert result.completion_tokens > 0


def test_events_come_in_order_and_texts_make_the_answer() -> None:
    async def events() -> list[object]:
        asked = pipeline(Upstream([["Kar", "", "vel"]])).stream(Request(QUESTION))
        return [event async for event in asked]

    first, *texts, last = asyncio.run(events())
    assert isinstance(first, Retrieved)
    assert [hit.passage.id for hit in first.hits] == ["p1", "p2"]
    assert texts == [Text("Kar"), Text("vel")]
    assert isinstance(last, Outcome)
    assert last.answer == "Karvel"


def test_an_empty_answer_abstains() -> None:
    result = outcome(Upstream([[" "]]), Request(QUESTION))
    assert result.abstained
    assert result.answer == ABSTAINED
    assert result.completion_tokens == 0


def test_closed_book_asks_again_without_passages() -> None:
    upstream = Upstream([[""], ["Karvel"]])
    result = outcome(upstream, Request(QUESTION, policy="closed-book"))
    assert (result.answer, result.abstained, result.grounded) == ("Karvel", False, False)
    assert result.attempts == 2
    assert result.hits == ()
    assert upstream.requests[1]["prompt"] == render_prompt(
        TOKENIZER, PromptTemplate(), QUESTION, []
    )


def test_deeper_shows_the_next_passages_until_there_are_no_more() -> None:
    upstream = Upstream([[""], ["a glassblower"]])
    result = outcome(upstream, Request(QUESTION), policy="deeper")
    assert {hit.passage.id for hit in result.hits} == {"p3", "p4"}
    assert (result.attempts, result.grounded) == (2, True)
    assert outcome(Upstream([[""], [""]]), Request(QUESTION), policy="deeper").abstained


def test_no_passages_are_retrieved_for_top_k_zero() -> None:
    result = outcome(Upstream([["Karvel"]]), Request(QUESTION, top_k=0))
    assert (result.hits, result.grounded) == ((), False)


def test_lowest_ranked_passages_are_left_out_to_keep_within_the_context() -> None:
    one = render_prompt(TOKENIZER, PromptTemplate(), QUESTION, PASSAGES[:1])
    upstream = Upstream([["Karvel"]])
    result = outcome(
        upstream, Request(QUESTION, sampling=Sampling(max_tokens=4)), context=len(one) + 4
    )
    assert [hit.passage.id for hit in result.hits] == ["p1"]
    assert upstream.requests[0]["prompt"] == one


def test_a_question_that_cannot_fit_is_refused() -> None:
    with pytest.raises(BadInput, match="do not fit into the model's 10 tokens"):
        outcome(Upstream([["x"]]), Request(QUESTION), context=10)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(BadInput, match="abstain, closed-book, deeper"):
        pipeline(Upstream([]), policy="guess")


@pytest.mark.parametrize(("given", "status"), [(500, 502), (429, 503), (400, 400), (401, 502)])
def test_upstream_errors_keep_one_line_and_get_a_status(given: int, status: int) -> None:
    with pytest.raises(CallFailed, match="no room left") as caught:
        outcome(Upstream([], status=given), Request(QUESTION))
    assert upstream_refusal(caught.value).status == status


def test_an_answer_that_breaks_off_is_an_error_and_no_abstention() -> None:
    with pytest.raises(CallFailed, match="broke off"):
        outcome(Upstream([["Kar"]], cut=True), Request(QUESTION))


def test_leaving_early_closes_the_upstream_request() -> None:
    closed: list[bool] = []

    class Endless:
        async def stream(self, *_: object, **__: object) -> AsyncGenerator[Piece, None]:
            try:
                while True:
                    yield Piece("word ")
            finally:
                closed.append(True)

    async def leave() -> None:
        asked = RagPipeline(WordRetriever(), TOKENIZER, PromptTemplate(), Endless()).stream(
            Request(QUESTION)
        )
        async for event in asked:
            if isinstance(event, Text):
                break
        await asked.aclose()

    asyncio.run(leave())
    assert closed == [True]


def test_retrieval_does_not_stop_the_event_loop() -> None:
    import threading

    seen: list[str] = []

    class Watching(WordRetriever):
        def search(self, queries: Any, k: int) -> Any:
            seen.append(threading.current_thread().name)
            return super().search(queries, k)

    watched = RagPipeline(
        Watching(), TOKENIZER, PromptTemplate(), Upstream([["x"]]).client(), top_k=1
    )
    asyncio.run(watched.answer(Request(QUESTION)))
    assert seen
    assert all(name.startswith("retrieval") for name in seen)


BEST = WordRetriever().search([QUESTION], 1)[0][0].score


def test_where_no_passage_is_near_enough_the_model_is_not_asked() -> None:
    upstream = Upstream([])
    result = outcome(upstream, Request(QUESTION), min_score=BEST + 0.01)
    assert (result.abstained, result.answer, result.attempts) == (True, ABSTAINED, 0)
    assert result.reason == f"no passage above {BEST + 0.01:g}"
    assert (result.hits, [hit.passage.id for hit in result.nearest]) == ((), ["p1", "p2"])
    assert upstream.requests == []
    shown = outcome(Upstream([["Karvel"]]), Request(QUESTION), min_score=BEST)
    assert (shown.abstained, shown.nearest, len(shown.hits)) == (False, (), 2)
    ended = outcome(Upstream([[""]]), Request(QUESTION), min_score=BEST)
    assert (ended.abstained, ended.reason) == (True, "model ended")


def test_passages_that_are_not_near_enough_lead_to_the_policy() -> None:
    upstream = Upstream([["Karvel"]])
    result = outcome(upstream, Request(QUESTION, policy="closed-book", min_score=2.0))
    assert (result.answer, result.grounded, result.abstained) == ("Karvel", False, False)
    assert [hit.passage.id for hit in result.nearest] == ["p1", "p2"]
    assert upstream.requests[0]["prompt"] == render_prompt(
        TOKENIZER, PromptTemplate(), QUESTION, []
    )
    deeper = outcome(Upstream([]), Request(QUESTION, policy="deeper", min_score=2.0))
    assert (deeper.abstained, deeper.attempts) == (True, 0)


def test_a_threshold_is_of_the_servers_own_way_to_search() -> None:
    other = Request(QUESTION, search=Search(mode="dense"))
    assert not outcome(Upstream([["Karvel"]]), other, min_score=2.0).abstained
    given = tuple(WordRetriever().search([QUESTION], 2)[0])
    assert not outcome(Upstream([["x"]]), Request(QUESTION, hits=given), min_score=2.0).abstained
