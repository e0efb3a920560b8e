"""Answers that cannot be scored: replies that did not end, and answers without a verdict.

So many are borne; the others end the run with a hint.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from neurorit.core.endpoint.replies import HINTS
from neurorit.core.errors import NeuroritError
from neurorit.eval.predictions import Prediction
from neurorit.eval.run.answering import Unanswered
from neurorit.eval.run.plan import Plan

# More unscored answers than this, and a judge's figure says little: the run stops.
MAX_UNSCORED = 0.02


def unread_answers(predictions: Sequence[Prediction]) -> list[Unanswered]:
    """The places whose reply did not end, was withheld, or holds no answer, with the reason."""
    return [
        Unanswered(p.system, p.condition, p.id, HINTS[p.unread], p.unread)
        for p in predictions
        if p.unread
    ]


def refuse_unanswered(
    system: str, plan: Plan, unanswered: Sequence[Unanswered], most: float
) -> None:
    """Raise NeuroritError where more than the share `most` of a system's replies are not there.

    unanswered: calls that failed for good, and replies that cannot be scored. They would be taken
    for wrong answers, or for refusals, of which they are neither. Of all replies, and of those
    under each condition: see `refuse_unscored`.
    """
    if len(unanswered) > most * len(plan.prompts):
        raise _too_many(system, plan, unanswered, len(plan.prompts), "")
    asked = Counter(prompt.condition for prompt in plan.prompts)
    for condition, of in asked.items():
        held = [one for one in unanswered if one.condition == condition]
        if len(held) > _borne(most, of):
            raise _too_many(system, plan, held, of, f" under {condition}")


def refuse_unscored(
    judge: str,
    predictions: Sequence[Prediction],
    most: float,
    unanswered: Sequence[Unanswered] = (),
    why: str = "",
) -> None:
    """Raise NeuroritError where more than `most` of the answers have no verdict.

    A call that failed for good has none either. why: what the judge says of it
    (`neurorit.eval.judges.judge.failure_of`).

    Of all answers, and of each system's under each condition: a judge that fails on one of them
    would shift that figure alone. One answer of such a cell is borne where `most` is above zero.
    """
    failed = Counter((missed.system, missed.condition) for missed in unanswered)
    missing = failed + Counter(
        (p.system, p.condition) for p in predictions if p.verdict == "unscored"
    )
    asked = failed + Counter((p.system, p.condition) for p in predictions)
    kept = "the answers are kept: run again with the same ‹out› to ask it for these alone"
    calls = f" ({failed.total()} of them calls that failed)" if failed else ""
    if missing.total() > most * asked.total():
        raise NeuroritError(
            f"the judge {judge} gave no verdict on {missing.total()} of {asked.total()} "
            f"answers{calls}{why}, more than {most:.0%} (‹max_unscored›); {kept}"
        )
    for (system, condition), count in missing.most_common():
        of = asked[system, condition]
        if count > _borne(most, of):
            raise NeuroritError(
                f"the judge {judge} gave no verdict on {count} of {of} answers of {system} under "
                f"{condition}{calls}{why}, more than {most:.0%} (‹max_unscored›); {kept}"
            )


def _borne(most: float, of: int) -> float:
    """How many are borne of one system's answers under one condition: one at least."""
    return max(most * of, 1 if most > 0 else 0)


def _too_many(
    system: str, plan: Plan, held: Sequence[Unanswered], of: int, where: str
) -> NeuroritError:
    kinds = Counter(one.reason for one in held)
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    first = held[0]
    return NeuroritError(
        f"system {system}: {len(held)} of {of} replies{where} cannot be scored ({told}; max_tokens "
        f"is {plan.max_tokens}), first on question {first.id!r} under {first.condition}: "
        f"{first.error}. ‹max_unscored› bears some: their questions are left out for every system"
    )
