"""Answer metrics: exact match, match on the first line, token F1, abstention.

Normalisation is SQuAD's (lower-case, no punctuation, no articles, single spaces); with several
accepted answers the best one counts. It knows nothing of models, judges or averages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from retrieval.answers import normalize_answer


def exact_match(prediction: str, answers: Sequence[str]) -> bool:
    """The normalised prediction equals a normalised answer. An abstention never matches."""
    if is_abstention(prediction):
        return False
    said = normalize_answer(prediction)
    return any(said == normalize_answer(answer) for answer in answers)


def match(prediction: str, answers: Sequence[str]) -> bool:
    """A normalised answer is a substring of the prediction's first line (METHOD.md).

    An answer that normalises to nothing ("The") would be a substring of anything; it must be equal.
    """
    if is_abstention(prediction):
        return False
    line = normalize_answer(prediction.strip().splitlines()[0])
    golds = [normalize_answer(answer) for answer in answers]
    return any(gold in line if gold else gold == line for gold in golds)


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Best token F1 over the answers, in [0, 1]; tokens are those of the normalised text."""
    said = normalize_answer(prediction).split()
    return max((_token_f1(said, normalize_answer(answer).split()) for answer in answers), default=0)


def is_abstention(text: str) -> bool:
    """The model ended the answer at once: nothing but white space came."""
    return not text.strip()


def _token_f1(said: list[str], gold: list[str]) -> float:
    same = (Counter(said) & Counter(gold)).total()
    if same == 0:
        return 0.0
    precision, recall = same / len(said), same / len(gold)
    return 2 * precision * recall / (precision + recall)
