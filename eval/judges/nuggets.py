"""Recall of nuggets: of the facts that a long answer should state, the share that it does.

The facts stand in an example's `meta.nuggets`; a judge is asked about each of them alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from neurorit.data.examples import Example
from neurorit.eval.judges.judge import CachedJudge, Judge
from neurorit.eval.predictions import Item, Prediction


@runtime_checkable
class NuggetJudge(Protocol):
    """A judge that can be asked whether an answer states a fact."""

    def of_nuggets(self) -> Judge:
        """The same judge, which is asked whether the answer says what the reference says."""
        ...


def nuggets_of(example: Example) -> tuple[str, ...]:
    """The facts that an answer should state; none for most examples."""
    return tuple(example.meta.get("nuggets") or ())


def judge_nuggets(
    judge: CachedJudge | None,
    predictions: Sequence[Prediction],
    examples: Mapping[str, Example],
    progress: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """The predictions with their recall of nuggets, where there are some and the judge can say.

    A refusal states none. An answer of which a fact is unscored has no recall.
    """
    facts = {p.id: nuggets_of(examples[p.id]) for p in predictions}
    if judge is None or not isinstance(judge.judge, NuggetJudge) or not any(facts.values()):
        return [replace(p, nuggets=None) for p in predictions]
    asked = [p for p in predictions if facts[p.id] and not p.unread and not p.abstained]
    items = {Item(p.question, (fact,), p.output): None for p in asked for fact in facts[p.id]}
    own = CachedJudge(judge.judge.of_nuggets(), judge.cache)
    said = dict(zip(items, own.decide(list(items), progress), strict=True))
    made = []
    for p in predictions:
        recall: float | None = None
        if facts[p.id] and not p.unread:
            held = [
                "wrong" if p.abstained else said[Item(p.question, (fact,), p.output)]
                for fact in facts[p.id]
            ]
            if "unscored" not in held:
                recall = held.count("right") / len(held)
        made.append(replace(p, nuggets=recall))
    return made
