"""Answers that cannot be scored: replies that did not end, and answers without a verdict.

So many are borne; the others end the run with a hint.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

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


def refuse_unread(system: str, plan: Plan, answered: Mapping[str, Prediction], most: float) -> None:
    """Raise NeuroritError where more than the share `most` of a system's replies cannot be scored.

    They would be taken for wrong answers, or for refusals, of which they are neither.
    """
    held = [answered[key] for key in plan.keys[system] if key in answered]
    unread = unread_answers([p for p in held if p.unread])
    if len(unread) > most * len(held):
        kinds = Counter(one.reason for one in unread)
        told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        first = unread[0]
        raise NeuroritError(
            f"system {system}: {len(unread)} of {len(held)} replies cannot be scored ({told}; "
            f"max_tokens is {plan.max_tokens}), first on question {first.id!r} under "
            f"{first.condition}: {first.error}. --max-unscored bears some: their questions are "
            "left out for every system"
        )


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
        if count > max(most * of, 1 if most > 0 else 0):
            raise NeuroritError(
                f"the judge {judge} gave no verdict on {count} of {of} answers of {system} under "
                f"{condition}{calls}{why}, more than {most:.0%} (‹max_unscored›); {kept}"
            )
