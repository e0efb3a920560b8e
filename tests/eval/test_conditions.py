"""Conditions: their names, what they take from the pools, and a stable order."""

from __future__ import annotations

import pytest

from eval.conditions import CONDITIONS, TooFewPassages, build_condition, parse_condition
from retrieval.errors import BadInput
from retrieval.examples import Example


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
