"""Calls that fail for good: a few are borne and counted, many stop the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neurorit.core.endpoint.call_settings import CallSettings
from neurorit.core.errors import NeuroritError
from neurorit.data.example_files import write_examples
from neurorit.eval.predictions import read_predictions
from neurorit.eval.run.runner import run_evaluation
from neurorit.eval.run.systems import parse_system
from tests.conftest import make_example
from tests.eval.chat_server import Reply, said, serving
from tests.eval.run.test_remote import answer_by_prompt

QUICK = CallSettings(timeout=5.0, retries=0, pause=0.0, concurrency=4)
FILTERED: Reply = (400, {"error": {"message": "content filter"}})


def test_a_filtered_question_does_not_block_the_report(tmp_path: Path) -> None:
    """One question of 60 is refused: it is left out for all systems, and counted as unscored."""
    write_examples(tmp_path / "e.jsonl", [make_example(i) for i in range(60)])

    def answer(body: dict[str, Any]) -> Reply:
        filtered = "Person 3 " in body["messages"][0]["content"] and body["model"] == "a"
        return FILTERED if filtered else answer_by_prompt(body)

    with serving(answer) as server:
        systems = [parse_system(f"{name}={server.url}#{name}") for name in ("a", "b")]
        conditions = ["clean", "distractor-2"]
        args = (systems, tmp_path / "e.jsonl", conditions, tmp_path / "run", None, 0)
        report = run_evaluation(*args, calls=QUICK)
        assert [(m["system"], m["condition"], m["id"]) for m in report["unanswered"]] == [
            ("a", name, "q3") for name in conditions
        ]
        assert "content filter" in report["unanswered"][0]["error"]
        assert {row["n"] for row in report["results"]} == {59}
        assert sum(report["verdicts"].values()) == 60 * 2 * 2
        assert report["manifest"]["left_out"] == ["q3"]
        before = len(server.requests)
        again = run_evaluation(*args, calls=QUICK)
        # Only what failed is asked again.
        assert len(server.requests) == before + 2
        assert again["results"] == report["results"]


def test_more_failures_than_are_borne_stop_the_run(tmp_path: Path) -> None:
    write_examples(tmp_path / "e.jsonl", [make_example(i) for i in range(60)])

    def answer(body: dict[str, Any]) -> Reply:
        bad = any(f"Person {n} " in body["messages"][0]["content"] for n in (3, 4, 5))
        return FILTERED if bad else answer_by_prompt(body)

    with serving(answer) as server:
        args = ([parse_system(f"a={server.url}#m")], tmp_path / "e.jsonl", ["clean"])
        with pytest.raises(NeuroritError, match=r"3 of 60 calls failed.*max_unscored"):
            run_evaluation(*args, tmp_path / "run", None, 0, calls=QUICK)
        report = run_evaluation(*args, tmp_path / "run", None, 0, calls=QUICK, max_unscored=0.05)
    assert report["verdicts"]["unscored"] == 60
    assert len(report["unanswered"]) == 3


def test_failures_of_one_condition_stop_the_run(tmp_path: Path) -> None:
    """Two of 120 calls are few, but two of one condition's 60 are not."""
    write_examples(tmp_path / "e.jsonl", [make_example(i) for i in range(60)])

    def answer(body: dict[str, Any]) -> Reply:
        turn = body["messages"][0]["content"]
        bad = "distractor" not in turn and ("Person 3 " in turn or "Person 4 " in turn)
        return FILTERED if bad else answer_by_prompt(body)

    with serving(answer) as server:
        args = (
            [parse_system(f"a={server.url}#m")],
            tmp_path / "e.jsonl",
            ["clean", "distractor-2"],
        )
        for wrong in (False, True):  # a call that failed is no reply that did not end
            with pytest.raises(NeuroritError, match=r"2 of 60 replies under clean .*2 failed"):
                run_evaluation(
                    *args, tmp_path / "run", None, 0, calls=QUICK, unended_as_wrong=wrong
                )


def test_a_server_that_refuses_everything_is_not_asked_everything(tmp_path: Path) -> None:
    write_examples(tmp_path / "e.jsonl", [make_example(i) for i in range(60)])
    with serving(lambda body: FILTERED) as server:
        system = parse_system(f"a={server.url}#m")
        with pytest.raises(NeuroritError, match="stopped after"):
            run_evaluation(
                [system], tmp_path / "e.jsonl", ["clean"], tmp_path / "r", None, 0, calls=QUICK
            )
        assert len(server.requests) < 20


def test_reading_a_journal_changes_nothing(tmp_path: Path) -> None:
    """A line that a live run is just writing is not cut off by whoever looks."""
    write_examples(tmp_path / "e.jsonl", [make_example(0)])
    with serving(lambda body: said("x")) as server:
        system = parse_system(f"a={server.url}#m")
        run_evaluation([system], tmp_path / "e.jsonl", ["clean"], tmp_path, None, 0, calls=QUICK)
    path = tmp_path / "predictions.jsonl"
    with open(path, "a", encoding="utf-8") as stream:
        stream.write('{"system": "a", "cond')
    before = path.read_bytes()
    assert len(read_predictions(path)) == 1
    assert path.read_bytes() == before
    assert read_predictions(tmp_path / "none.jsonl") == {}
