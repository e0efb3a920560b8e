"""Which passage made an answer wrong: the question is asked again without each passage in turn.

Answers come from a callable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neurorit.data.examples import Example, Passage
from neurorit.eval.metrics.answers import is_abstention
from neurorit.eval.metrics.faithfulness import found_in
from neurorit.eval.metrics.scoring import is_right
from neurorit.eval.predictions import Metric

Answerer = Callable[[Sequence[tuple[str, Sequence[Passage]]]], Sequence[str]]
"""(question, passages in the prompt's order) pairs -> one answer each, in order."""


@dataclass(frozen=True)
class Case:
    """A wrong answer to look into: the question with the passages it was asked with."""

    example: Example
    condition: str
    passages: Sequence[Passage]
    output: str


def trace(
    cases: Sequence[Case],
    answer: Answerer,
    *,
    why: Mapping[tuple[str, str], str] | None = None,
    metric: Metric = "em",
) -> list[dict[str, Any]]:
    """For each case, what the system says with one passage less.

    A passage is a *culprit* when the answer is right without it, by the run's `metric`. why:
    (question id, passage id) -> the ledger's reason. All questions go to `answer` in one call,
    first each case as it was: a system that now gives another answer is reported as `repeated`
    false, and its culprits are judged against the new one. Raises ValueError if the answers do not
    match the questions.
    """
    questions: list[tuple[str, Sequence[Passage]]] = []
    for case in cases:
        questions.append((case.example.question, case.passages))
        for left_out in range(len(case.passages)):
            kept = [p for i, p in enumerate(case.passages) if i != left_out]
            questions.append((case.example.question, kept))
    replies = list(answer(questions)) if questions else []
    if len(replies) != len(questions):
        raise ValueError(f"{len(replies)} answers to {len(questions)} questions")
    in_turn = iter(replies)
    return [
        _record(case, [next(in_turn) for _ in range(1 + len(case.passages))], why, metric)
        for case in cases
    ]


def _record(
    case: Case, replies: Sequence[str], why: Mapping[tuple[str, str], str] | None, metric: Metric
) -> dict[str, Any]:
    now, without = replies[0].strip(), [text.strip() for text in replies[1:]]
    read = found_in(now, case.passages)
    passages = []
    wrong = not is_right(now, case.example, metric)
    for number, (passage, text) in enumerate(zip(case.passages, without, strict=True), start=1):
        passages.append(
            {
                "number": number,
                "id": passage.id,
                "kind": passage.kind,
                "why": (why or {}).get((case.example.id, passage.id)),
                "says_the_answer": number in read,
                "without_it": text,
                "changes_answer": text != now,
                "culprit": wrong and is_right(text, case.example, metric),
            }
        )
    return {
        "id": case.example.id,
        "condition": case.condition,
        "question": case.example.question,
        "answers": list(case.example.answers),
        "output": now,
        "repeated": now == case.output.strip(),
        "wrong": wrong,
        "abstained": is_abstention(now),
        "passages": passages,
        "culprits": [p["number"] for p in passages if p["culprit"]],
    }
