"""Answers without a verdict: how many are borne, and how far they could move a judge's figure.

It knows predictions, and calls that brought none, only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from neurorit.core.errors import NeuroritError
from neurorit.eval.predictions import Prediction
from neurorit.eval.run.answering import Unanswered

# More unscored answers than this, and a judge's figure says little: the run stops.
MAX_UNSCORED = 0.02


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
