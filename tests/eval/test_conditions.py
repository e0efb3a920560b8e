"""Conditions: their names, what they take from the pools, and a stable order."""

from __future__ import annotations

import pytest

from neurorit.core.errors import BadInput
from neurorit.data.examples import Example
from neurorit.eval.conditions import (
    CONDITIONS,
    TooFewPassages,
    asked_question,
    build_condition,
    distractor_conditions,
    parse_condition,
)
from neurorit.eval.query_noise import QUERY_NOISE


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("closed-book", []),
        ("clean", ["gold"]),
        ("distractor-2", ["distractor"] * 2 + ["gold"]),
        ("random-4", ["gold"] + ["random"] * 4),
        ("counterfactual-1", ["counterfactual", "gold"]),
        ("noise-only-4", ["distractor"] * 4),
        ("noise-only-6", ["distractor"] * 4 + ["random"] * 2),
        ("counterfactual-only-1", ["counterfactual"]),
        ("random-only-3", ["random"] * 3),
    ],
)
def test_passages_of_a_condition(examples: list[Example], name: str, kinds: list[str]) -> None:
    passages = build_condition(examples[0], name, seed=1)
    assert sorted(str(p.kind) for p in passages) == kinds
    assert passages == build_condition(examples[0], name, seed=1)


def test_more_noise_adds_to_less(examples: list[Example]) -> None:
    fewer, more = ({p.id for p in build_condition(examples[0], name)} for name in CONDITIONS[2:4])
    assert fewer < more


def test_gold_moves_about(examples: list[Example]) -> None:
    places = {
        [p.kind for p in build_condition(examples[0], "distractor-4", seed)].index("gold")
        for seed in range(60)
    }
    assert places == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    "name", ["distractor", "distractor-0", "gold-2", "noise-only", "Clean", ""]
)
def test_unknown_names(name: str) -> None:
    with pytest.raises(BadInput, match="unknown condition"):
        parse_condition(name)


def test_too_small_pools_say_so(examples: list[Example]) -> None:
    with pytest.raises(TooFewPassages, match=r"'q0' has 4 distractor passages.*needs 9"):
        build_condition(examples[0], "distractor-9")
    # Only noise-only is filled up with random passages.
    with pytest.raises(TooFewPassages, match=r"'q0' has 4 distractor passages.*needs 5"):
        build_condition(examples[0], "distractor-only-5")


@pytest.mark.parametrize(("position", "place"), [("first", 0), ("middle", 2), ("last", 4)])
def test_gold_stands_where_the_name_says(
    examples: list[Example], position: str, place: int
) -> None:
    plain = build_condition(examples[0], "distractor-4", 3)
    placed = build_condition(examples[0], f"distractor-4@{position}", 3)
    assert [p.kind for p in placed].index("gold") == place
    # Nothing else changes: the same passages, the noise in the same order.
    assert [p for p in placed if p.kind != "gold"] == [p for p in plain if p.kind != "gold"]
    assert build_condition(examples[0], "distractor-4@random@shuffled", 3) == plain


def test_order_of_the_noise(examples: list[Example]) -> None:
    ranked = build_condition(examples[0], "distractor-4@last@ranked")
    assert [p.id for p in ranked] == [*(f"0-distractor-{i}" for i in range(4)), "0-gold-0"]
    turned = build_condition(examples[0], "noise-only-4@reversed")
    assert [p.id for p in turned] == [f"0-distractor-{i}" for i in (3, 2, 1, 0)]


@pytest.mark.parametrize(
    "name", ["noise-only-2@first", "counterfactual-only-1@last", "retrieved-3@last"]
)
def test_suffixes_that_mean_nothing(name: str) -> None:
    with pytest.raises(BadInput, match=name):
        parse_condition(name)


def test_fixed_orders_are_not_averaged_with_the_shuffled() -> None:
    names = ["distractor-4", "distractor-4@last", "distractor-1"]
    assert distractor_conditions(names) == ["distractor-1", "distractor-4"]


def test_the_question_put_otherwise_sees_the_same_passages(examples: list[Example]) -> None:
    for name in (
        "closed-book",
        "clean",
        "distractor-4",
        "distractor-2@last@ranked",
        "noise-only-2",
    ):
        plain = build_condition(examples[0], name, 3)
        for kind in QUERY_NOISE:
            assert build_condition(examples[0], f"{name}+{kind}", 3) == plain
            assert parse_condition(f"{name}+{kind}").bare == name
            assert asked_question(examples[0], f"{name}+{kind}", 3) != examples[0].question
        assert asked_question(examples[0], name, 3) == examples[0].question
    assert parse_condition("retrieved-3+typos").retrieved
    assert distractor_conditions(["distractor-2", "distractor-4+typos"]) == ["distractor-2"]
    with pytest.raises(BadInput, match=r"put otherwise by \+typos, \+paraphrase, \+lower, \+upper"):
        parse_condition("clean+typo")
