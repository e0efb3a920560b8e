"""Questions put otherwise: what they ask stays, they are drawn once, and all see them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from neurorit.data.examples import Passage
from neurorit.eval.query_noise import QUERY_NOISE, reword
from neurorit.eval.run.runner import run_evaluation
from neurorit.eval.run.systems import System, parse_system
from tests.eval.chat_server import Reply, said, serving


@given(st.text(max_size=60), st.sampled_from(sorted(QUERY_NOISE)), st.integers(0, 9))
def test_any_text_is_put_otherwise_the_same_each_time(text: str, kind: str, seed: int) -> None:
    assert reword(text, kind, "q", seed) == reword(text, kind, "q", seed)
    assert reword(text, "", "q", seed) == text


def test_typing_errors_leave_words_to_be_guessed() -> None:
    question = "Which harbour town in Norway was founded in 1070?"
    made = {reword(question, "typos", f"q{i}") for i in range(40)}
    assert len(made) > 20 and question not in made
    for text in made:
        words, given_words = text.split(), question.split()
        assert len(words) == len(given_words)
        for word, before in zip(words, given_words, strict=True):
            assert word[0] == before[0] and abs(len(word) - len(before)) <= 1
            assert word == before or len(before.strip("?")) >= 4
        assert "1070" in text
    assert reword("Who is it?", "typos", "q") == "Who is it?"  # no word is long enough


def test_other_words_ask_the_same() -> None:
    made = {reword("Who is the mayor of Bergen?", "paraphrase", f"q{i}") for i in range(60)}
    assert "Who's the mayor of Bergen?" in made and len(made) >= 6
    assert all("the mayor of Bergen?" in text for text in made)
    assert {reword("In which year?", "paraphrase", f"q{i}") for i in range(60)} >= {"In what year?"}
    assert reword("Who?", "upper", "q") == "WHO?" and reword("Who?", "lower", "q") == "who?"


def test_systems_and_the_retriever_get_the_question_as_it_is_put(
    examples_file: Path, tmp_path: Path
) -> None:
    asked: list[list[str]] = []
    corpus = [Passage("p", "t", "Town0x0.")]

    def retrieve(questions: Any, k: int) -> Any:
        asked.append(list(questions))
        return [corpus[:k] for _ in questions]

    conditions = ["retrieved-1", "retrieved-1+upper", "closed-book+lower"]
    with serving(lambda body: said("x")) as server:
        report = run_evaluation(
            [parse_system(f"a={server.url}#m")],
            examples_file,
            conditions,
            tmp_path / "a",
            None,
            0,
            retrieve=retrieve,
        )
        turns = [body["messages"][-1]["content"] for body in server.requests]
    assert len(report["results"]) == 3
    plain, upper = asked
    assert upper == [question.upper() for question in plain]
    assert all(sum(question in turn for turn in turns) == 1 for question in upper)
    assert all(sum(question.lower() in turn for turn in turns) == 1 for question in plain)
    lines = [json.loads(x) for x in (tmp_path / "a" / "predictions.jsonl").read_text().splitlines()]
    # What a judge sees is the question that the answers belong to.
    assert {line["question"] for line in lines} == set(plain)


def test_a_gateway_is_sent_the_question_as_it_is_put(examples_file: Path, tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> Reply:
        return said("x", neurorit={"passages": [], "abstained": False})

    with serving(answer) as server:
        system = System("rag", "gateway", url=server.url.removesuffix("/v1"))
        conditions = ["closed-book+upper", "retrieved-2+upper"]
        run_evaluation([system], examples_file, conditions, tmp_path, None, 0)
        turns = [body["messages"][-1]["content"] for body in server.requests]
    assert turns and all(turn == turn.upper() for turn in turns)
