"""Which similarity suffices: a threshold on the best score, chosen on validation questions.

A question whose best passage scores below it is not answered. Risk is the share of answered
questions for which no passage shown holds the answer, coverage the share that is answered
(El-Yaniv and Wiener 2010). It knows scores and what is right; nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from neurorit.core.errors import BadInput


class Found(NamedTuple):
    """The best score of one question, and whether a passage shown holds its answer."""

    score: float
    holds: bool


class Step(NamedTuple):
    """What a threshold gives: coverage and risk in [0, 1]; risk is 0 where nothing is answered."""

    threshold: float
    coverage: float
    risk: float


def curve(found: Sequence[Found]) -> list[Step]:
    """Coverage and risk for each threshold that parts the questions, from all answered to fewest.

    Raises BadInput for no questions.
    """
    if not found:
        raise BadInput("calibrate: there is no question to calibrate on")
    ordered = sorted(found)
    steps, left = [], len(ordered)
    wrong = sum(not one.holds for one in ordered)
    for at, one in enumerate(ordered):
        if at == 0 or one.score > ordered[at - 1].score:
            below = ordered[at - 1].score if at else one.score
            threshold = (below + one.score) / 2
            steps.append(Step(threshold, left / len(ordered), wrong / left))
        left -= 1
        wrong -= not one.holds
    return steps


def for_abstention(found: Sequence[Found], share: float) -> Step:
    """The step whose share of questions that are not answered is nearest to the asked one."""
    return min(curve(found), key=lambda step: abs(1 - step.coverage - share))


def for_risk(found: Sequence[Found], risk: float) -> Step:
    """The step that answers most questions with at most that risk.

    Raises BadInput where none does.
    """
    steps = [step for step in curve(found) if step.risk <= risk]
    if not steps:
        least = min(step.risk for step in curve(found))
        raise BadInput(
            f"‹risk={risk:g}›: no threshold reaches it; the least is {least:.3f}, since the best "
            "scores too stand beside passages without the answer"
        )
    return max(steps, key=lambda step: step.coverage)


def at(found: Sequence[Found], threshold: float) -> Step:
    """What a threshold gives on these questions."""
    answered = [one for one in found if one.score >= threshold]
    wrong = sum(not one.holds for one in answered)
    coverage = len(answered) / len(found) if found else 0.0
    return Step(threshold, coverage, wrong / len(answered) if answered else 0.0)
