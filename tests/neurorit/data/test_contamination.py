"""Leakage audit: the same question, nearly the same, the same gold passage, and no false alarm."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from neurorit.cli import app
from neurorit.core.errors import GateMissed
from neurorit.data.contamination import count_leaks, find_leaks
from neurorit.data.example_files import write_examples
from neurorit.data.examples import Example, Passage

GOLD = Passage("p1", "Otter", "The otter lives in rivers.", "gold")
TRAIN = [
    Example("t1", "Where does the otter live in winter months?", ("rivers",), (GOLD,)),
    Example("t2", "Who built the old bridge?", ("Ana",), (Passage("p2", "", "x y z", "random"),)),
]


def kinds(example: Example) -> list[tuple[str, str]]:
    return [(leak.kind, leak.train) for leak in find_leaks(TRAIN, [example])]


def test_every_way_to_leak_is_named() -> None:
    assert kinds(Example("e", "who built old bridge", ("Ana",))) == [("question", "t2")]
    near = Example("e", "Where does the otter live in the cold winter months?", ("rivers",))
    assert kinds(near) == [("near-question", "t1")]
    by_id = Example("e", "Quite another thing?", ("a",), (Passage("p2", "", "other", "gold"),))
    assert kinds(by_id) == [("gold-id", "t2")]
    copied = Passage("p9", "", "the otter lives in rivers", "gold")
    assert kinds(Example("e", "Something else?", ("a",), (copied,))) == [("gold-text", "t1")]
    named = Example("e", "Nothing alike?", ("a",), (), {"gold": ["p1"]})
    assert kinds(named) == [("gold-id", "t1")]
    apart = Example("e", "Who built the new tower?", ("a",), (Passage("p7", "", "q", "gold"),))
    assert kinds(apart) == []
    # A distractor of the evaluation may stand in training: it is no evidence.
    noise = Example("e", "Whose is it?", ("a",), (Passage("p1", "", "x", "distractor"),))
    assert kinds(noise) == []


def test_scripts_without_spaces_leak_too() -> None:
    train = [Example("t", "法国的首都是哪里\uff1f", ("巴黎",))]
    for asked, kind in (
        ("法国的首都是哪里\uff1f", "question"),
        ("法国的首都是哪里", "question"),
        ("法国的首都是哪里呢\uff1f", "near-question"),
    ):
        (leak,) = find_leaks(train, [Example("e", asked, ("巴黎",))])
        assert (leak.kind, leak.train) == (kind, "t")
    assert find_leaks(train, [Example("e", "日本有多少个岛\uff1f", ("x",))]) == []


def test_the_command_counts_and_gates(tmp_path: Path) -> None:
    write_examples(tmp_path / "train.jsonl", TRAIN)
    write_examples(tmp_path / "eval.jsonl", [TRAIN[0], Example("e", "What is new here?", ("a",))])
    places = ["--train", str(tmp_path / "train.jsonl"), "--eval", str(tmp_path / "eval.jsonl")]
    command = ["data", "leaks", *places, "--json"]
    result = json.loads(CliRunner().invoke(app, command).stdout)
    assert (result["examples"], result["question"], result["gold-id"]) == (1, 1, 1)
    assert result["of"] == 2
    assert result["leaks"][0]["id"] == "t1"
    gated = CliRunner().invoke(app, [*command, "--fail-over", "0"])
    assert isinstance(gated.exception, GateMissed)
    assert count_leaks([])["examples"] == 0
