"""Scores of one answer: exact match, match, F1, refusal and the parts it holds.

A question without accepted answers is answered right by a refusal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from neurorit.data.examples import Example, Passage
from neurorit.data.refusals import refusal_of
from neurorit.eval.metrics import answers as metrics
from neurorit.eval.metrics import matching
from neurorit.eval.metrics.settings import Analysis
from neurorit.eval.predictions import Prediction, counts_as_right, gold_ids


def score(
    system: str,
    condition: str,
    example: Example,
    passages: Sequence[Passage],
    key: str,
    text: str,
    call: str = "",
    analysis: Analysis | None = None,
) -> Prediction:
    """The prediction for one answer, not judged yet."""
    output = text.strip()
    return Prediction(
        system=system,
        condition=condition,
        id=example.id,
        question=example.question,
        answers=example.answers,
        passages=tuple({"id": p.id, "kind": p.kind} for p in passages),
        output=output,
        verdict="unscored",
        judged_by=None,
        key=key,
        call=call,
        **_scores(output, example, analysis or Analysis()),
    )


def rescored(prediction: Prediction, example: Example, analysis: Analysis) -> Prediction:
    """The prediction scored as `analysis` says, whatever an earlier run made of its answer."""
    scored = replace(prediction, **_scores(prediction.output, example, analysis))
    return scored.unread_as(scored.unread)


def is_right(output: str, example: Example, analysis: Analysis) -> bool:
    """Whether an answer counts as right in a run that is scored so."""
    scores = _scores(output, example, analysis)
    kinds = ("em", "match", "match_substring", "parts")
    return counts_as_right(analysis.metric, *(scores[kind] for kind in kinds))


def answer_in(output: str, answer_after: str) -> str:
    """The part of a reply that is its answer: what follows those words, or all without them."""
    if not answer_after:
        return output
    return output.rpartition(answer_after)[2].strip()


def _scores(output: str, example: Example, analysis: Analysis) -> dict[str, Any]:
    output = answer_in(output, analysis.answer_after)
    parts = example.meta.get("parts") or ()
    matched = matching.match_all(output, example.parts)
    substring = matching.match_substring_all(output, example.parts)
    exact = metrics.exact_match(output, example.answers)
    if len(parts) > 1 and not exact:
        exact = metrics.exact_match_all(output, parts)
    readings = parts or example.meta.get("readings") or ()
    # Who says "unknown" where that is the answer does not refuse.
    refusal = "" if matched or exact else refusal_of(output, analysis.refusals)
    if example.unanswerable:
        # What has no answer is answered right by a refusal alone: SQuAD 2's rule.
        exact = matched = substring = bool(refusal)
    return {
        "em": exact,
        "match": matched,
        "match_substring": substring,
        "f1": float(exact) if example.unanswerable else metrics.f1(output, example.answers),
        "abstained": bool(refusal),
        "refusal": refusal,
        "parts": metrics.parts_recalled(output, readings) if readings else None,
        "gold": len(gold_ids(example)),
        "cluster": analysis.cluster_of(example),
    }
