"""Examples worth reading: questions whose answer changed between systems, in both directions.

The choice is by rule and order of the questions, never by taste; losses of the method are shown
beside its gains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from neurorit.data.examples import Passage
from neurorit.data.support import unsupported_spans
from neurorit.eval.conditions import distractor_conditions, parse_condition
from neurorit.eval.metrics.faithfulness import misled, read_in
from neurorit.eval.metrics.scoring import answer_in
from neurorit.eval.metrics.settings import Analysis
from neurorit.eval.predictions import Metric, Prediction

_Cells = Mapping[tuple[str, str], Sequence[Prediction]]
_Passages = Mapping[tuple[str, str], Sequence[Passage]]


class _Rule(NamedTuple):
    title: str
    condition: str
    most: int
    holds: Callable[[Prediction, Prediction], bool]  # (before, after)


def pick_flips(
    cells: _Cells,
    systems: Sequence[str],
    conditions: Sequence[str],
    shown: Mapping[str, _Passages],
    *,
    pairs: Sequence[tuple[str, str]],
    analysis: Analysis,
) -> list[dict[str, Any]]:
    """The first few questions for each kind of change from b to a of the first pair (a, b).

    shown: system -> (question id, condition) -> the passages that it was shown; analysis: what is
    read of a reply, and what counts as right. Without a pair, each system's first questions that
    noise turned from right to misled.
    """
    after, before = pairs[0] if pairs else ("", "")
    if not pairs:
        alone = [_noise_flips(s, cells, systems, conditions, shown, analysis) for s in systems]
        return [record for of_system in alone for record in of_system]
    chosen = []
    for rule in _rules(conditions, analysis.metric):
        sides = zip(cells[before, rule.condition], cells[after, rule.condition], strict=True)
        hits = [i for i, (old, new) in enumerate(sides) if rule.holds(old, new)]
        for i in hits[: rule.most]:
            answers = [cells[system, rule.condition][i] for system in systems]
            chosen.append(_record(rule, len(hits), answers, after, shown, analysis))
    return chosen


def _noise_flips(
    system: str,
    cells: _Cells,
    systems: Sequence[str],
    conditions: Sequence[str],
    shown: Mapping[str, _Passages],
    analysis: Analysis,
) -> Iterator[dict[str, Any]]:
    passages = shown[system]
    for name in conditions if "clean" in conditions else ():
        condition = parse_condition(name)
        if condition.noise is None or not condition.gold:
            continue
        pairs = zip(cells[system, "clean"], cells[system, name], strict=True)
        hits = [
            i
            for i, (old, new) in enumerate(pairs)
            if old.right_by(analysis.metric)
            and _misled(new, passages.get((new.id, name), ()), analysis)
        ]
        if hits:
            answers = [cells[s, name][hits[0]] for s in systems]
            rule = _Rule(f"{system}: right on clean, misled here", name, 1, lambda old, new: True)
            yield _record(rule, len(hits), answers, system, shown, analysis)


def _misled(answer: Prediction, shown: Sequence[Passage], analysis: Analysis) -> bool:
    said = answer_in(answer.output, analysis.answer_after)
    read = read_in(said, answer.question, shown)
    return misled(answer, said, shown, read, analysis.metric)


def _unsupported(answer: Prediction, shown: Sequence[Passage]) -> list[list[int]]:
    """Where the sentences that no passage supports stand; none where none were shown."""
    if answer.abstained or not shown:
        return []
    return [list(span) for span in unsupported_spans(answer.output, shown, answer.question)]


def _rules(conditions: Sequence[str], metric: Metric) -> Iterator[_Rule]:
    def gained(old: Prediction, new: Prediction) -> bool:
        return new.right_by(metric) and not old.right_by(metric)

    noisy = distractor_conditions(list(conditions))
    if noisy:
        hardest = noisy[-1]
        yield _Rule("Wrong before, right after", hardest, 3, gained)
        yield _Rule("Right before, wrong after", hardest, 2, lambda old, new: gained(new, old))
    if "clean" in conditions:
        yield _Rule(
            "Refused although the answer is there",
            "clean",
            1,
            lambda old, new: bool(new.answers) and new.abstained and not old.abstained,
        )
    for name in conditions:
        condition = parse_condition(name)
        if condition.noise and not condition.gold:
            yield _Rule(
                "Nothing to find: answered before, refused after",
                name,
                1,
                lambda old, new: new.abstained and not old.abstained,
            )


def _record(
    rule: _Rule,
    total: int,
    answers: Sequence[Prediction],
    of: str,
    shown: Mapping[str, _Passages],
    analysis: Analysis,
) -> dict[str, Any]:
    """of: the system whose passages are listed; each answer is looked up in its own."""
    place = answers[0].id, rule.condition
    passages = shown[of].get(place, ())
    return {
        "why": rule.title,
        "of": total,
        "condition": rule.condition,
        "id": answers[0].id,
        "question": answers[0].question,
        "answers": list(answers[0].answers),
        "passages": [
            {"id": p.id, "title": p.title, "text": p.text, "kind": p.kind} for p in passages
        ],
        "outputs": [
            {
                "system": p.system,
                "output": p.output,
                "em": p.em,
                "right": p.right_by(analysis.metric),
                "abstained": p.abstained,
                "verdict": p.verdict,
                "found_in": read_in(
                    answer_in(p.output, analysis.answer_after),
                    p.question,
                    shown[p.system].get(place, ()),
                ),
                "unsupported": _unsupported(p, shown[p.system].get(place, ())),
            }
            for p in answers
        ],
    }
