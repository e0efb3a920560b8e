"""Targets: the evidence that is picked, and a teacher that is asked once and may fail."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from neurorit.core.endpoint.call_settings import CallSettings
from neurorit.core.errors import BadInput, NeuroritError
from neurorit.data.examples import Example, Passage
from neurorit.model.load import load_model
from neurorit.model.prompts import PromptTemplate
from neurorit.tuning.evidence import Teacher, evidence_sentence, responses
from neurorit.tuning.samples import make_samples

AT_ONCE = CallSettings(retries=3, pause=0.0)

TEXT = (
    "Ada Lovelace was born in London. She met Mr. Babbage in 1833 at a party. "
    "In 1843 she published the first program! It was for the Analytical Engine."
)
EXAMPLE = Example(
    "e1",
    "When did Ada publish the first program?",
    ("1843",),
    (
        Passage("n", "Other", "Somebody published a program in 1843.", "distractor"),
        Passage("g", "Ada Lovelace", TEXT, "gold"),
    ),
)
BARE = Example("e2", "When?", ("1900",), (Passage("n", "Other", "In 1900.", "distractor"),))


def test_the_sentence_holds_the_answer_and_is_of_the_gold_passage() -> None:
    assert evidence_sentence(EXAMPLE) == "In 1843 she published the first program!"
    assert evidence_sentence(BARE) == ""


def test_responses_are_for_examples_with_evidence() -> None:
    assert responses([EXAMPLE, BARE], "answer") == {"e1": "1843"}
    said = responses([EXAMPLE, BARE], "evidence")
    assert said == {"e1": "In 1843 she published the first program! Answer: 1843"}
    said = responses([EXAMPLE, BARE], "evidence-only")
    assert said == {"e1": "In 1843 she published the first program!"}


def test_the_response_is_what_is_learned(checkpoint: Path) -> None:
    _, tokenizer = load_model(checkpoint)
    said = responses([EXAMPLE, BARE], "evidence")
    samples, _ = make_samples([EXAMPLE, BARE], tokenizer, PromptTemplate(), 999, responses=said)
    assert tokenizer.decode(samples[0].response[:-1]) == said["e1"]
    assert len(samples[1].response) == 1


def serve(replies: list[httpx.Response], asked: list[dict[str, object]]) -> httpx.MockTransport:
    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        return replies.pop(0)

    return httpx.MockTransport(answer)


def reply(text: str) -> httpx.Response:
    return httpx.Response(200, json={"choices": [{"message": {"content": text}}]})


def test_a_teacher_is_asked_once_and_after_a_failure_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURORIT_TEACHER_KEY", "secret-key")
    asked: list[dict[str, object]] = []
    cache = tmp_path / "cache"
    transport = serve([httpx.Response(503), reply(""), reply("She  published\nit.")], asked)
    teacher = Teacher("http://t/v1", "big", cache, transport=transport, settings=AT_ONCE)
    said = responses([EXAMPLE, BARE], "evidence", teacher)
    assert said == {"e1": "She published it. Answer: 1843"}
    assert len(asked) == 3
    again = Teacher("http://t/v1", "big", cache, transport=serve([], asked), settings=AT_ONCE)
    assert responses([EXAMPLE], "evidence", again) == said
    assert len(asked) == 3
    assert b"secret" not in b"".join(p.read_bytes() for p in cache.iterdir())
    broken = serve([httpx.Response(503)] * 4, asked)
    other = Teacher("http://t/v1", "other", cache, transport=broken, settings=AT_ONCE)
    with pytest.raises(NeuroritError, match="other failed"):
        responses([EXAMPLE], "evidence", other)


def test_a_teacher_sums_up_without_being_told_the_answer(tmp_path: Path) -> None:
    asked: list[dict[str, object]] = []
    replies = [reply("A program was published."), reply("In 1843.")]
    teacher = Teacher("http://t/v1", "big", tmp_path / "c", transport=serve(replies, asked))
    said = responses([EXAMPLE, BARE], "evidence-only", teacher)
    assert said == {"e1": "A program was published."}
    assert responses([EXAMPLE], "evidence", teacher)["e1"].startswith("In 1843.")
    alone, told = (json.dumps(request) for request in asked)
    assert "Answer: 1843" in told and "Answer: 1843" not in alone


def test_a_teacher_that_keeps_failing_is_named(tmp_path: Path) -> None:
    transport = serve([httpx.Response(500)] * 4, [])
    teacher = Teacher("http://t/v1", "big", tmp_path / "c", transport=transport, settings=AT_ONCE)
    with pytest.raises(NeuroritError, match="HTTP 500"):
        teacher.ask([EXAMPLE])
    with pytest.raises(BadInput, match="no address"):
        Teacher("t/v1", "big", tmp_path / "c")
    with pytest.raises(BadInput, match="teacher_model"):
        Teacher("http://t/v1", "", tmp_path / "c")


def test_a_teacher_that_thinks_and_refuses_what_it_is_asked_with(tmp_path: Path) -> None:
    asked: list[dict[str, object]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        asked.append(body)
        if "max_tokens" in body or "temperature" in body:
            return httpx.Response(400, json={"error": "Unsupported parameter"})
        if body["max_completion_tokens"] < 50:
            cut = {"message": {"content": "<think>She"}, "finish_reason": "length"}
            return httpx.Response(200, json={"choices": [cut]})
        return reply("<think>She did.</think>She published it.")

    def ask(tokens: int) -> dict[str, str]:
        request = {"max_completion_tokens": tokens, "temperature": None}
        transport = httpx.MockTransport(answer)
        place = tmp_path / "cache"
        return Teacher(
            "http://t/v1", "big", place, request=request, transport=transport, settings=AT_ONCE
        ).ask([EXAMPLE])

    assert ask(100) == {"e1": "She published it."}
    with pytest.raises(NeuroritError, match="more in teacher_request"):
        ask(10)
    assert len(asked) == 2
