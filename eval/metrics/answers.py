"""Answer metrics: exact match, token F1, parts recalled; `metrics.matching` holds match.

Normalisation is SQuAD's (lower-case, no punctuation, no articles, single spaces); with several
accepted answers the best one counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from neurorit.data.answers import normalize_answer


def exact_match(prediction: str, answers: Sequence[str]) -> bool:
    """The normalised prediction equals a normalised answer. An abstention never matches."""
    if is_abstention(prediction):
        return False
    normalized = normalize_answer(prediction)
    return any(normalized == normalize_answer(answer) for answer in answers)


def exact_match_all(prediction: str, parts: Sequence[Sequence[str]]) -> bool:
    """The prediction is one form of each part, in any order, with commas or "and" between them."""
    if is_abstention(prediction):
        return False
    forms = [[normalize_answer(form).split() for form in part] for part in parts]
    return _made_of(normalize_answer(prediction).split(), forms)


def parts_recalled(prediction: str, parts: Sequence[Sequence[str]]) -> float:
    """Share of an answer's parts of which a form stands in the prediction, in [0, 1].

    The whole prediction counts, not only its first line, and forms are substrings of its
    normalised text: ASQA's STR-EM. Source: Stelmakh et al., 2022.
    """
    normalized = normalize_answer(prediction)
    golds = [[normalize_answer(form) for form in part] for part in parts]
    return sum(any(g and g in normalized for g in forms) for forms in golds) / len(golds)


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Best token F1 over the answers, in [0, 1]; tokens are those of the normalised text.

    Texts that both normalise to nothing agree, as in SQuAD 2; an abstention never does.
    """
    if is_abstention(prediction):
        return 0.0
    words = normalize_answer(prediction).split()
    return max(
        (_token_f1(words, normalize_answer(answer).split()) for answer in answers), default=0
    )


def is_abstention(text: str) -> bool:
    """The model ended the answer at once: nothing but white space came."""
    return not text.strip()


def _made_of(words: Sequence[str], parts: Sequence[Sequence[Sequence[str]]]) -> bool:
    if not parts:
        return not words
    for i, forms in enumerate(parts):
        others = [*parts[:i], *parts[i + 1 :]]
        for form in forms:
            if form and list(words[: len(form)]) == list(form):
                rest = words[len(form) :]
                if _made_of(rest, others) or (rest[:1] == ["and"] and _made_of(rest[1:], others)):
                    return True
    return False


def _token_f1(tokens: list[str], gold: list[str]) -> float:
    if not tokens or not gold:
        return float(tokens == gold)
    same = (Counter(tokens) & Counter(gold)).total()
    if same == 0:
        return 0.0
    precision, recall = same / len(tokens), same / len(gold)
    return 2 * precision * recall / (precision + recall)
