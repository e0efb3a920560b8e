"""Recall of nuggets: each fact is asked about once, a refusal states none, a lost one no share."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from neurorit.core.endpoint.call_settings import CallSettings
from neurorit.core.endpoint.reply_cache import Cache
from neurorit.core.errors import BadInput
from neurorit.data.example_files import write_examples
from neurorit.data.examples import Example
from neurorit.eval.judges.endpoint import EndpointJudge
from neurorit.eval.predictions import Item, Verdict
from neurorit.eval.run.plan import estimate, make_plan
from neurorit.eval.run.runner import run_evaluation
from neurorit.eval.run.systems import parse_system
from tests.eval.chat_server import Reply, said, serving

QUICK = CallSettings(timeout=5.0, retries=0, pause=0.0, concurrency=4)
FACTS = ["born in 1815", "wrote notes", "lived in London"]
ANSWERS = {
    "q0": "Ada was born in 1815 and wrote notes.",
    "q1": "I do not know.",
    "q2": "lived in London",
    "q3": "It is unclear who wrote notes.",
}


def judge(body: dict[str, Any]) -> Reply:
    """A fact is stated where its words stand; one about London is never decided."""
    text = body["messages"][0]["content"]
    reference, answer = (re.search(rf"<{t}>(.*?)</{t}>", text) for t in ("reference", "answer"))
    assert reference and answer
    if "says, in whatever words" not in text:
        return said("No")
    if "lived in London" in answer[1] and "wrote" in reference[1]:
        return 500, {"error": "down"}
    return said("Yes" if reference[1] in answer[1] else "No")


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    made = [
        Example(f"q{i}", f"Who was Ada, {i}?", ("Ada",), (), {"nuggets": FACTS} if i < 4 else {})
        for i in range(5)
    ]
    write_examples(tmp_path / "e.jsonl", made)
    return tmp_path / "e.jsonl"


def answer(body: dict[str, Any]) -> Reply:
    number = re.findall(r"Ada, (\d)", body["messages"][-1]["content"])[-1]
    return said(ANSWERS.get(f"q{number}", "Ada"))


def test_recall_of_nuggets(examples: Path, tmp_path: Path) -> None:
    with serving(answer) as server, serving(judge) as judges:

        def run() -> dict[str, Any]:
            made = EndpointJudge(judges.url, "j", calls=QUICK)
            systems = [parse_system(f"a={server.url}#m")]
            return run_evaluation(
                systems, examples, ["closed-book"], tmp_path / "run", made, 0, calls=QUICK
            )

        (row,) = run()["results"]
        path = tmp_path / "run" / "predictions.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert {p["id"]: p["nuggets"] for p in lines} == {
            "q0": pytest.approx(2 / 3), "q1": 0.0, "q2": None, "q3": pytest.approx(1 / 3),
            "q4": None,
        }  # fmt: skip
        assert row["nuggets"] == pytest.approx(1 / 3) and row["n_of"]["nuggets"] == 3
        assert row["ci95"]["nuggets"][0] < 1 / 3 < row["ci95"]["nuggets"][1]
        asked = Counter(judges.asked)
        run()  # what was decided is not asked again, what was lost is
        assert sum((judges.asked - asked).values()) == 1


def test_calls_for_nuggets_are_counted_before(examples: Path, tmp_path: Path) -> None:
    systems = [parse_system("a=http://127.0.0.1:9/v1#m")]
    plan = make_plan(systems, examples, ["closed-book"], 0, max_tokens=8, engine={})
    with Cache(tmp_path) as store:

        def counted(asked: Any) -> Any:
            return estimate(plan, {}, store, judge=asked)["judge_calls_at_most"]

        assert counted(EndpointJudge("http://127.0.0.1:9/v1", "j")) == 5 + 4 * len(FACTS)

        class Plain:
            name = fingerprint = "p"

            def decide(self, items: list[Item], progress: Any = None) -> list[Verdict]:
                return ["right"] * len(items)

        assert counted(Plain()) == 5


def test_facts_are_texts(tmp_path: Path) -> None:
    record = {"id": "q", "question": "Who?", "answers": ["a"], "meta": {"nuggets": [["a"]]}}
    (tmp_path / "e.jsonl").write_text(json.dumps(record) + "\n")
    systems = [parse_system("a=http://127.0.0.1:9/v1#m")]
    with pytest.raises(BadInput, match=r"e.jsonl:1: .*'meta.nuggets' must be a list of texts"):
        make_plan(systems, tmp_path / "e.jsonl", ["closed-book"], 0, max_tokens=8, engine={})
