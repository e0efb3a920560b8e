"""Contexts of both sides: apart as they come, or matched in number, order and length."""

from __future__ import annotations

from pathlib import Path

import pytest

from neurorit.core.errors import BadInput
from neurorit.data.example_files import load_examples, write_examples
from neurorit.data.examples import Example, Passage
from neurorit.mining.contexts import Context, contexts
from neurorit.mining.settings import MiningSettings


def text(count: int, mark: str) -> str:
    return " ".join([mark] * count)


def noise(name: str, count: int, kind: str = "distractor") -> Passage:
    return Passage(name, f"title {name}", text(count, name), kind)


def gold(name: str, count: int) -> Passage:
    return Passage(name, name, text(count, name), "gold")


def read(path: Path, made: list[Example], count: int, layout: str) -> dict[str, Context]:
    write_examples(path, made)
    return {c.key: c for c in contexts(load_examples(path), 99, count, 0, layout=layout)}


def shown(context: Context) -> list[str]:
    return [passage.id for passage in context.passages]


def test_sides_apart_show_gold_alone_and_the_first_of_the_noise(tmp_path: Path) -> None:
    made = [Example("e", "q?", ("answer",), (noise("a", 9), gold("g", 9), noise("b", 9)))]
    read_ = read(tmp_path / "e.jsonl", made, 1, "apart")
    assert shown(read_["rel/e"]) == ["g"]
    assert shown(read_["irrel/e"]) == ["a"]


def test_matched_sides_differ_in_the_gold_passages_place_alone(tmp_path: Path) -> None:
    passages = (noise("a", 20), gold("g", 10), noise("b", 30), noise("c", 12), noise("d", 11))
    made = [Example("e", "q?", ("answer",), passages)]
    read_ = read(tmp_path / "e.jsonl", made, 2, "matched")
    assert shown(read_["rel/e"]) == ["a", "g"]
    # Of what is left the nearest in length.
    assert shown(read_["irrel/e"]) == ["a", "d"]


def test_noise_of_like_length_is_borrowed_and_holds_no_answer(tmp_path: Path) -> None:
    made = [
        Example("e", "q?", ("answer",), (gold("g", 10), noise("a", 40))),
        Example("f", "q?", ("x",), (noise("answer", 10), noise("b", 12), gold("h", 8))),
        Example("only noise", "q?", ("y",), (noise("z", 10),)),
    ]
    read_ = read(tmp_path / "e.jsonl", made, 2, "matched")
    assert shown(read_["rel/e"]) == ["g", "a"]
    assert shown(read_["irrel/e"]) in (["z", "a"], ["b", "a"])
    assert {len(c.passages) for c in read_.values()} == {2}
    assert "rel/only noise" not in read_
    assert shown(read_["irrel/only noise"])[0] == "z"
    for context in read_.values():
        assert len(set(shown(context))) == len(context.passages)
        if context.side == "irrel":
            assert not any(p.kind == "gold" for p in context.passages)
            assert not any(context.answers[0] in p.text for p in context.passages)


def test_two_gold_passages_are_matched_by_two_of_noise(tmp_path: Path) -> None:
    made = [
        Example("e", "q?", ("answer",), (gold("g", 10), noise("a", 10), gold("h", 10))),
        Example("f", "q?", ("x",), (noise("b", 10), noise("c", 12))),
    ]
    read_ = read(tmp_path / "e.jsonl", made, 1, "matched")
    assert shown(read_["rel/e"]) == ["g", "h"]
    assert {len(c.passages) for c in read_.values()} == {2}


def test_a_pool_that_is_too_small_is_told(tmp_path: Path) -> None:
    made = [Example("e", "q?", ("answer",), (gold("g", 10), noise("a", 10)))]
    with pytest.raises(BadInput, match="too little noise for 4 passages"):
        read(tmp_path / "e.jsonl", made, 4, "matched")


def test_a_yes_no_task_asks_both_sides_whether_the_gold_answer_can_be_derived() -> None:
    made = [Example("e", "q {x}?", ("answer", "other"), (noise("a", 9), gold("g", 9)))]
    plain, asked = (list(contexts(made, 9, 1, 0, task=task)) for task in ("answer", "yes-no"))
    for one, other in zip(plain, asked, strict=True):
        assert (one.key, one.passages) == (other.key, other.passages)
        assert other.answers == ("YES",)
        assert other.question.startswith("q {x}?\nProposed answer: answer\n")
    with pytest.raises(BadInput, match="irrelevant_target=gold"):
        MiningSettings(task="yes-no", contexts="all")
    MiningSettings(task="yes-no", contexts="all", irrelevant_target="gold")
