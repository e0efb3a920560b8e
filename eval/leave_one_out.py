"""Which passage made an answer wrong: the question is asked again without some of the passages.

One by one, or by halves: the passages that hold the answer stay, and of the others a part is left
out whose half is left out again where the answer is right without it. Answers come from a callable.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neurorit.data.answers import held_answer
from neurorit.data.examples import Example, Passage
from neurorit.eval.metrics.answers import is_abstention
from neurorit.eval.metrics.faithfulness import found_in
from neurorit.eval.metrics.scoring import is_right
from neurorit.eval.metrics.settings import Analysis

Answerer = Callable[[Sequence[tuple[str, Sequence[Passage]]]], Sequence[str]]
"""(question, passages in the prompt's order) pairs -> one answer each, in order."""
Without = tuple[int, ...]
"""Which passages are left out, from 0."""
# Of so few passages quarters are the passages one by one.
_FEW = 4
_Search = Generator[list[Without], list[str], None]


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
    analysis: Analysis | None = None,
    halves: bool = False,
) -> list[dict[str, Any]]:
    """For each case, what the system says with one passage less.

    A passage is a *culprit* when the answer is right without it, by the run's `analysis`. why:
    (question id, passage id) -> the ledger's reason. First each case is asked as it was: a system
    that now gives another answer is reported as `repeated` false, and its culprits are judged
    against the new one. All cases' questions of a round go to `answer` in one call: one by one
    there is one round, after Cohen-Wang et al.'s leave-one-out; halves: a few, with fewer and
    shorter questions in all (AttriBoT's pruning), which name one culprit at most and leave what was
    not asked None. `read` counts the passages that all prompts hold, and `read_one_by_one` what
    leaving out each takes. Raises ValueError if the answers do not match the questions.
    """
    analysis = analysis or Analysis()
    searches = [_by_halves(case, analysis) if halves else _one_by_one(case) for case in cases]
    said: list[dict[Without, str]] = [{} for _ in cases]
    waiting = {i: next(search) for i, search in enumerate(searches)}
    while waiting:
        asked = [(i, left) for i, wanted in waiting.items() for left in wanted]
        questions = [(cases[i].example.question, _kept(cases[i], left)) for i, left in asked]
        replies = list(answer(questions))
        if len(replies) != len(questions):
            raise ValueError(f"{len(replies)} answers to {len(questions)} questions")
        for (i, left), reply in zip(asked, replies, strict=True):
            said[i][left] = reply.strip()
        following = {}
        for i, wanted in waiting.items():
            try:
                following[i] = searches[i].send([said[i][left] for left in wanted])
            except StopIteration:
                continue
        waiting = following
    return [_record(case, found, why, analysis) for case, found in zip(cases, said, strict=True)]


def _kept(case: Case, left: Without) -> list[Passage]:
    return [passage for i, passage in enumerate(case.passages) if i not in left]


def _one_by_one(case: Case) -> _Search:
    yield [(), *((i,) for i in range(len(case.passages)))]


def _by_halves(case: Case, analysis: Analysis) -> _Search:
    """The passages that say the answer that was given are left out before the others."""
    (now,) = yield [()]
    if is_right(now, case.example, analysis):
        return
    read = set(found_in(now, case.passages))
    others = [
        i
        for i, passage in enumerate(case.passages)
        if passage.kind != "gold" and held_answer(passage.text, case.example.answers) is None
    ]
    known: dict[Without, str] = {}
    # Of many passages all are left out first: that is short, and where it changes nothing none of
    # them is to blame. Of a few it is quicker to leave out what says the answer, and then the rest.
    few = len(others) <= _FEW
    told = [i for i in others if i + 1 in read]
    first = [told, [i for i in others if i not in told]] if few else [others]
    group, parts, finer = others, [part for part in first if part], False
    while parts:
        for part in parts:
            left = tuple(part)
            if left not in known:
                (known[left],) = yield [left]
            if is_right(known[left], case.example, analysis):
                group = part
                break
        else:
            if finer or len(group) <= _FEW or parts == [group]:
                return
            # Neither part: what misleads may stand in both. Once, by quarters.
            quarter = -(-len(group) // 4)
            parts = [group[i : i + quarter] for i in range(0, len(group), quarter)]
            finer = True
            continue
        said = [i for i in group if i + 1 in read]
        parts = [said, [i for i in group if i not in said]]
        if not all(parts):
            parts = [group[: len(group) // 2], group[len(group) // 2 :]]
            # What comes before a later passage has been read already.
            parts = parts[::-1] if few else parts
        parts = parts if len(group) > 1 else []


def _record(
    case: Case,
    said: Mapping[Without, str],
    why: Mapping[tuple[str, str], str] | None,
    analysis: Analysis,
) -> dict[str, Any]:
    now, size = said[()], len(case.passages)
    read = found_in(now, case.passages)
    passages = []
    wrong = not is_right(now, case.example, analysis)
    for number, passage in enumerate(case.passages, start=1):
        text = said.get((number - 1,))
        passages.append(
            {
                "number": number,
                "id": passage.id,
                "kind": passage.kind,
                "why": (why or {}).get((case.example.id, passage.id)),
                "says_the_answer": number in read,
                "without_it": text,
                "changes_answer": None if text is None else text != now,
                "culprit": wrong and text is not None and is_right(text, case.example, analysis),
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
        "asked": len(said),
        "read": sum(size - len(left) for left in said),
        "read_one_by_one": size * size,
        "passages": passages,
        "culprits": [p["number"] for p in passages if p["culprit"]],
    }
