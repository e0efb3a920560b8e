"""Forty replies by hand: each ends in exactly one of right, wrong, abstained and unscored."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from neurorit.core.endpoint.call_settings import CallSettings
from neurorit.core.endpoint.replies import Unread
from neurorit.core.errors import NeuroritError
from neurorit.data.example_files import write_examples
from neurorit.data.examples import Example
from neurorit.eval.metrics.scoring import rescored, score
from neurorit.eval.metrics.settings import Analysis
from neurorit.eval.predictions import METRICS, Item, Verdict
from neurorit.eval.run.runner import run_evaluation
from neurorit.eval.run.systems import System, parse_system
from neurorit.model.load import load_tokenizer
from neurorit.model.prompts import PromptTemplate
from neurorit.pipelines.evaluation.engines import Answers
from neurorit.serving.backends.offline import Completion
from neurorit.serving.backends.openai_client import ChatClient, CompletionClient
from neurorit.serving.gateway.app import Gateway, create_app
from neurorit.serving.rag.pipeline import RagPipeline
from tests.eval.chat_server import Reply, serving
from tests.serving.fakes import WordRetriever
from tests.serving.listening import listening
from tests.serving.tiny_llama import tiny_tokenizer

QUICK = CallSettings(timeout=20.0, retries=1, pause=0.0, concurrency=4)
THOUGHT = "The capital ... Lyon? No, it is another town."

# (content, finish reason, thinking apart, verdict, why it is unscored)
Case = tuple[Any, str | None, str, Verdict, Unread]


def text(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": one} for one in texts]


CASES: list[Case] = [
    # Answers that ended.
    ("Paris", "stop", "", "right", ""),
    ("It is Paris.", "stop", "", "right", ""),
    ("Paris", None, "", "right", ""),
    ("Lyon", "stop", "", "wrong", ""),
    ("It is Lyon, I think.", "eos", "", "wrong", ""),
    ("I am not sure, but it may be Lyon.", "stop", "", "wrong", ""),
    # Refusals in several wordings.
    ("", "stop", "", "abstained", ""),
    (None, "stop", "", "abstained", ""),
    ("  \n ", "stop", "", "abstained", ""),
    ([], "stop", "", "abstained", ""),
    ("I do not know.", "stop", "", "abstained", ""),
    ("The passages do not mention it.", "stop", "", "abstained", ""),
    ("unknown", "stop", "", "abstained", ""),
    ("Not enough information.", "stop", "", "abstained", ""),
    # Cut.
    ("The capital of France is Pa", "length", "", "unscored", "cut"),
    ("Paris", "length", "", "unscored", "cut"),
    ("I do not know, for the pass", "length", "", "unscored", "cut"),
    ("", "length", "", "unscored", "cut"),
    (None, "length", THOUGHT, "unscored", "cut"),
    (f"<think>{THOUGHT}", "length", "", "unscored", "cut"),
    (f"<think>{THOUGHT}</think>Par", "length", "", "unscored", "cut"),
    (text("The capital of"), "length", "", "unscored", "cut"),
    ("Paris is", "max_tokens", "", "unscored", "cut"),
    # Filtered, or declined by the server.
    ("", "content_filter", "", "unscored", "filtered"),
    (None, "content_filter", "", "unscored", "filtered"),
    ("Par", "content_filter", "", "unscored", "filtered"),
    (
        [{"type": "refusal", "refusal": "I can't help with that."}],
        "stop",
        "",
        "unscored",
        "filtered",
    ),
    # Thinking inline.
    (f"<think>{THOUGHT}</think>\n\nParis", "stop", "", "right", ""),
    (f"<think>\n{THOUGHT}\n</think>Lyon", "stop", "", "wrong", ""),
    (f"{THOUGHT}</think>Paris", "stop", "", "right", ""),  # the template opened it
    (f"<think>{THOUGHT}</think>I don't know.", "stop", "", "abstained", ""),
    (f"<think>{THOUGHT} Paris</think>", "stop", "", "unscored", "thinking"),
    (f"<think>Paris. {THOUGHT}", "stop", "", "unscored", "thinking"),
    (f"[THINK]{THOUGHT}[/THINK]Paris", "stop", "", "right", ""),
    # Thinking apart.
    ("Paris", "stop", THOUGHT, "right", ""),
    ("Lyon", "stop", "It is Paris.", "wrong", ""),
    (None, "stop", THOUGHT, "unscored", "thinking"),
    # Lists of parts.
    (text("It is ", "Paris"), "stop", "", "right", ""),
    ([{"type": "thinking", "thinking": "Paris"}, *text("Lyon")], "stop", "", "wrong", ""),
    ([{"type": "thinking", "thinking": "Paris"}], "stop", "", "unscored", "thinking"),
]


class Judge:
    name = fingerprint = "by eye"

    def decide(self, items: Sequence[Item], progress: Any = None) -> list[Verdict]:
        assert all(item.answer.strip() for item in items)
        return ["right" if "Paris" in item.answer else "wrong" for item in items]


def choice_of(case: Case) -> dict[str, Any]:
    content, reason, thought, _, _ = case
    message = {"role": "assistant", "content": content}
    if thought:
        message["reasoning_content"] = thought
    return {"index": 0, "message": message, "finish_reason": reason}


def answer(body: dict[str, Any]) -> Reply:
    number = re.findall(r"case number (\d+)", body["messages"][-1]["content"])[-1]
    return 200, {"choices": [choice_of(CASES[int(number)])]}


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    write_examples(
        path,
        [
            Example(f"q{i}", f"What is the capital of France in case number {i}?", ("Paris",))
            for i in range(len(CASES))
        ],
    )
    return path


def evaluate(system: System, questions: Path, out: Path, **more: Any) -> dict[str, Any]:
    args = ([system], questions, ["closed-book"], out, Judge(), 0)
    return run_evaluation(*args, calls=QUICK, **({"max_unscored": 1.0} | more))


def check(report: dict[str, Any], out: Path, cases: Sequence[Case]) -> None:
    """Every verdict is the table's, and totals add up."""
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert {p["id"]: (p["verdict"], p["unread"]) for p in lines} == {
        f"q{i}": case[3:] for i, case in enumerate(cases)
    }
    assert report["verdicts"] == {
        "right": 0, "wrong": 0, "abstained": 0, "unscored": 0,
        **Counter(case[3] for case in cases),
    }  # fmt: skip
    assert sum(report["verdicts"].values()) == len(cases)
    unscored = {f"q{i}": case[4] for i, case in enumerate(cases) if case[4]}
    assert {row["id"]: row["reason"] for row in report["unanswered"]} == unscored
    assert report["manifest"]["left_out"] == sorted(unscored)
    (row,) = report["results"]
    assert row["n"] == len(cases) - len(unscored)
    assert row["unscored"] == 0
    refused = sum(case[3] == "abstained" for case in cases)
    assert row["abstain_rate"] == pytest.approx(refused / row["n"])


def test_there_are_forty() -> None:
    assert len(CASES) == 40


def test_from_an_endpoint(questions: Path, tmp_path: Path) -> None:
    with serving(answer) as server:
        system = parse_system(f"a={server.url}#m")
        check(evaluate(system, questions, tmp_path / "run"), tmp_path / "run", CASES)
        asked = len(server.requests)
        again = evaluate(system, questions, tmp_path / "run")
        assert len(server.requests) == asked  # what was cut is not paid for twice
        check(again, tmp_path / "run", CASES)


def test_through_the_gateway(questions: Path, tmp_path: Path) -> None:
    with serving(answer) as server:

        class OneAtATime(ChatClient):
            async def complete(self, *asked: Any, **options: Any) -> Any:
                async with ChatClient(server.url.removesuffix("/v1"), "", "tiny") as own:
                    return await CompletionClient.complete(own, *asked, **options)

        client = OneAtATime(server.url.removesuffix("/v1"), "", "tiny")
        pipeline = RagPipeline(WordRetriever(), tiny_tokenizer(), PromptTemplate(), client)
        with listening(create_app(Gateway("tiny", "ready", pipeline))) as address:
            system = System("rag", "gateway", url=address)
            report = evaluate(system, questions, tmp_path / "run")
    check(report, tmp_path / "run", CASES)


def test_from_an_engine_of_our_own(tiny_model: Path, questions: Path, tmp_path: Path) -> None:
    """An engine's completions are texts with a reason to end."""
    cases: list[Case] = [
        case if isinstance(case[0], str) and not case[2] else CASES[0] for case in CASES
    ]
    tokenizer = load_tokenizer(tiny_model)

    def generate(name: str, model: Path, prompts: list[list[int]]) -> Answers:
        for i, ids in enumerate(prompts):
            number = re.findall(r"case number (\d+)", tokenizer.decode(ids))[-1]
            content, reason, *_ = cases[int(number)]
            yield [(i, Completion(content, (), reason or "stop"))]

    system = System("a", "checkpoint", model=tiny_model)
    report = evaluate(system, questions, tmp_path / "run", generate=generate)
    check(report, tmp_path / "run", cases)


def test_too_many_end_the_run_with_a_hint(questions: Path, tmp_path: Path) -> None:
    with serving(answer) as server:
        system = parse_system(f"a={server.url}#m")
        with pytest.raises(
            NeuroritError,
            match=r"17 of 40 replies cannot be scored \(9 cut, 4 filtered, 4 thinking; "
            r"max_tokens is 24\), first on question 'q14'.*raise max_tokens",
        ):
            evaluate(system, questions, tmp_path / "run", max_unscored=0.1)
    assert not (tmp_path / "run" / "report.json").exists()


def test_cut_replies_count_as_wrong_where_that_is_asked_for(
    questions: Path, tmp_path: Path
) -> None:
    with serving(answer) as server:
        system = parse_system(f"a={server.url}#m")
        report = evaluate(
            system, questions, tmp_path / "run", max_unscored=0.0, unended_as_wrong=True
        )
    (row,) = report["results"]
    assert (row["n"], row["verdicts"]["unscored"], report["unanswered"]) == (40, 17, [])
    assert row["abstain_rate"] == 9 / 40  # none of them is a refusal
    assert row["em"] == sum(c[3] == "right" and "It is" not in str(c[0]) for c in CASES) / 40


@pytest.mark.parametrize("said", ["", "I do not know, for the pass", "Paris"])
def test_a_cut_reply_is_right_by_no_metric(said: str) -> None:
    readings = {"readings": [["Paris"], ["Lutetia"]]}
    for example in (
        Example("a", "What is the capital of France?", ("Paris",), (), readings),
        Example("b", "What is the capital of the sea?", (), (), {"unanswerable": True}),
    ):
        cut = score("s", "clean", example, (), "k", said).unread_as("cut")
        for made in (cut, rescored(cut, example, Analysis("parts"))):
            assert not any((made.em, made.match, made.match_substring, made.f1, made.parts))
            assert not made.abstained and not made.refusal
            assert not any(made.right_by(metric) for metric in METRICS)
        assert (cut.parts is None) is example.unanswerable
