"""From predictions to the numbers of report.json: rates, intervals, comparisons, flipped examples.

Comparisons are paired by question; which systems and which metric they rest on is
`neurorit.eval.metrics.settings`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from neurorit.data import ranking
from neurorit.data.examples import Example, Passage
from neurorit.eval.conditions import POOLED, distractor_conditions, parse_condition
from neurorit.eval.metrics import faithfulness as reading
from neurorit.eval.metrics.robustness import robustness
from neurorit.eval.metrics.scoring import answer_in
from neurorit.eval.metrics.settings import Analysis
from neurorit.eval.predictions import VERDICTS, Prediction, Verdict
from neurorit.eval.report.findings import write_findings
from neurorit.eval.report.flips import pick_flips
from neurorit.eval.stats.intervals import Floats, rate_intervals
from neurorit.eval.stats.paired import compare_systems, power_rows

_RATES: dict[str, Callable[[Prediction], float]] = {
    "em": lambda p: p.em,
    "match": lambda p: p.match,
    "match-substring": lambda p: p.match_substring,
    "f1": lambda p: p.f1,
    "abstain_rate": lambda p: p.abstained,
}
SCORES: dict[str, Callable[[Prediction], float]] = {
    "em": lambda p: p.em,
    "match": lambda p: p.match,
    "match-substring": lambda p: p.match_substring,
    "f1": lambda p: p.f1,
    # An answer without parts is one part.
    "parts": lambda p: float(p.match) if p.parts is None else p.parts,
}

Passages = Mapping[tuple[str, str], Sequence[Passage]]
Cells = Mapping[tuple[str, str], Sequence[Prediction]]


def summarise(
    predictions: Sequence[Prediction],
    systems: Sequence[str],
    conditions: Sequence[str],
    passages: Passages,
    *,
    seed: int = 0,
    own: Mapping[str, Passages] | None = None,
    analysis: Analysis | None = None,
    examples: Mapping[str, Example] | None = None,
) -> dict[str, Any]:
    """The report without its manifest.

    passages: (question id, condition) -> passages in the prompt's order; own: the same of systems
    that were shown others; examples: by id, for the wrong answers that their meta names. Every
    system must have answered the same questions under every condition, in one order: ValueError if
    not.
    """
    chosen = analysis or Analysis()
    cells = _by_cell(predictions, systems, conditions)
    clusters = clusters_of(next(iter(cells.values())))
    known = examples or {}
    shown = {s: (own or {}).get(s, passages) for s in systems}
    noisy = distractor_conditions(list(conditions))
    values = _values(cells, systems, noisy, chosen)
    reader = reading.Reader()
    results = [
        _result(s, c, cells[s, c], shown[s], known, clusters, reader, chosen)
        for s in systems
        for c in conditions
    ]
    for result in results if "parts" in values else ():
        column = values["parts"][result["system"], result["condition"]][:, None]
        result["parts"] = float(column.mean())
        result["ci95"]["parts"] = list(rate_intervals(column, clusters)[0])
    pooled = [_pooled(system, noisy, values, clusters) for system in systems] if noisy else []
    compared = [*conditions, POOLED] if noisy else list(conditions)
    pairs = chosen.pairs(systems)
    report: dict[str, Any] = {
        "schema": 1,
        "systems": list(systems),
        "conditions": list(conditions),
        "metric": chosen.metric,
        "pairs": [list(pair) for pair in pairs],
        "clusters": len(set(clusters)) if clusters else None,
        "cluster": chosen.cluster or None,
        "results": results,
        "pooled": pooled,
        "comparisons": compare_systems(
            values, pairs, compared, clusters, pooled_over=len(noisy), seed=seed
        ),
        "robustness": robustness(
            cells, systems, conditions, values[chosen.metric], chosen.metric, clusters
        ),
        "abstention": [row for s in systems if (row := _abstention(s, cells, conditions))],
        "knowing_when": [row for s in systems if (row := _knowing_when(s, cells, conditions))],
        "power": power_rows(values[chosen.metric], chosen.metric, pairs, compared, clusters),
        "examples": pick_flips(cells, systems, conditions, shown, pairs=pairs, analysis=chosen),
    }
    report["findings"] = write_findings(report)
    return report


def clusters_of(predictions: Sequence[Prediction]) -> list[str] | None:
    """The cluster of each question; None where every question stands for itself."""
    labels = [p.cluster or p.id for p in predictions]
    return labels if len(set(labels)) < len(labels) else None


def _by_cell(
    predictions: Sequence[Prediction], systems: Sequence[str], conditions: Sequence[str]
) -> dict[tuple[str, str], list[Prediction]]:
    cells: dict[tuple[str, str], list[Prediction]] = {
        (s, c): [] for s in systems for c in conditions
    }
    for prediction in predictions:
        cells[prediction.system, prediction.condition].append(prediction)
    orders = {tuple(p.id for p in of_cell) for of_cell in cells.values()}
    if len(orders) != 1 or not next(iter(orders)):
        raise ValueError("systems and conditions do not hold the same questions in one order")
    return cells


def _values(
    cells: Cells, systems: Sequence[str], noisy: Sequence[str], chosen: Analysis
) -> dict[str, dict[tuple[str, str], Floats]]:
    """The scores that are compared, the primary metric first, with their means over `noisy`."""
    names = [chosen.metric, *("em", "match", "f1")]
    if any(p.parts is not None for of_cell in cells.values() for p in of_cell):
        names.append("parts")
    values: dict[str, dict[tuple[str, str], Floats]] = {}
    for name in dict.fromkeys(names):
        of = SCORES[name]
        values[name] = {
            cell: np.array([of(p) for p in of_cell], dtype=np.float64)
            for cell, of_cell in cells.items()
        }
        for system in systems if noisy else ():
            # The mean over conditions of one question is one number.
            mean = np.mean([values[name][system, c] for c in noisy], axis=0)
            values[name][system, POOLED] = mean
    return values


def _pooled(
    system: str,
    noisy: Sequence[str],
    values: Mapping[str, Mapping[tuple[str, str], Floats]],
    clusters: Sequence[str] | None,
) -> dict[str, Any]:
    columns = {name: by_cell[system, POOLED] for name, by_cell in values.items()}
    n = len(next(iter(columns.values())))
    row: dict[str, Any] = {"system": system, "condition": POOLED, "over": list(noisy), "n": n}
    row |= {name: float(column.mean()) for name, column in columns.items()}
    intervals = rate_intervals(np.column_stack(list(columns.values())), clusters)
    row["ci95"] = {name: list(pair) for name, pair in zip(columns, intervals, strict=True)}
    return row


def _result(
    system: str,
    condition: str,
    answers: Sequence[Prediction],
    passages: Passages,
    examples: Mapping[str, Example],
    clusters: Sequence[str] | None,
    reader: reading.Reader,
    chosen: Analysis,
) -> dict[str, Any]:
    table = np.array([[rate(p) for rate in _RATES.values()] for p in answers], dtype=np.float64)
    intervals = rate_intervals(table, clusters)
    row: dict[str, Any] = {"system": system, "condition": condition, "n": len(answers)}
    row |= dict(zip(_RATES, map(float, table.mean(axis=0)), strict=True))
    row["refusals"] = {
        kind: sum(p.refusal == kind for p in answers) for kind in ("empty", "verbal")
    }
    verdicts = Counter(p.verdict for p in answers)
    # An unscored answer has no verdict: it is counted beside the rate, not in it.
    counted = [_counted(p) for p in answers]
    judged = [
        (float(verdict == "right"), p)
        for verdict, p in zip(counted, answers, strict=True)
        if verdict != "unscored"
    ]
    none_given = len(judged) == verdicts["abstained"] and verdicts["unscored"]
    if none_given or not any(p.judged_by for p in answers):
        judged = []
    row["unscored"] = verdicts["unscored"]
    row["verdicts"] = {verdict: verdicts[verdict] for verdict in VERDICTS}
    row["judge_bounds"] = list(judge_bounds(Counter(counted))) if judged else None
    row["ci95"] = {name: list(pair) for name, pair in zip(_RATES, intervals, strict=True)}
    sure = [(p.confidence, p) for p in answers if p.confidence is not None]
    stated = [(p.nuggets, p) for p in answers if p.nuggets is not None]
    columns = {"judge": judged, "judge_confidence": sure, "nuggets": stated}
    if not all(p.answers for p in answers):
        # Only these refusals are wrong where the passages hold the answer.
        columns["abstain_rate_answerable"] = [(float(p.abstained), p) for p in answers if p.answers]
    columns |= _reading(condition, answers, passages, examples, reader, chosen)
    for name, scored in columns.items():
        figures = [float(value) for value, _ in scored]
        labels = [p.cluster or p.id for _, p in scored] if clusters else None
        row[name] = float(np.mean(figures)) if figures else None
        row["ci95"][name] = list(rate_intervals(_column(figures), labels)[0]) if figures else None
        if len(figures) < len(answers):
            row.setdefault("n_of", {})[name] = len(figures)
    return row


def _counted(p: Prediction) -> Verdict:
    """The verdict that counts: of what has no answer a refusal is right, and all else wrong."""
    if p.answers or p.verdict == "unscored":
        return p.verdict
    return "right" if p.abstained else "wrong"


def _reading(
    condition: str,
    answers: Sequence[Prediction],
    passages: Passages,
    examples: Mapping[str, Example],
    reader: reading.Reader,
    chosen: Analysis,
) -> dict[str, list[tuple[float, Prediction]]]:
    """What was retrieved and what was read from it; nothing where no passages were shown.

    misled_rate: of all answers, and none that the run counts as right; faithfulness: of those that
    are no refusal; cited_faithfulness: of those that cite; recall and ndcg: of all gold passages
    that a question has, in the prompt's order, over the questions that have any.
    """
    if not any(p.passages for p in answers):
        return {}
    shown = [(p, passages.get((p.id, condition), ())) for p in answers]
    columns: dict[str, list[tuple[float, Prediction]]] = {}
    if all(texts for p, texts in shown if p.passages):
        said = [answer_in(p.output, chosen.answer_after) for p in answers]
        read = [
            (p, text, texts, _read(p, text, texts, examples.get(p.id), reader))
            for text, (p, texts) in zip(said, shown, strict=True)
        ]
        columns["misled_rate"] = [
            (float(reading.misled(p, text, texts, at, chosen.metric)), p)
            for p, text, texts, at in read
        ]
        answered = [one for one in read if not one[0].abstained]
        columns["faithfulness"] = [(float(bool(at)), p) for p, _, _, at in answered]
        citing = [
            (reading.is_cited_faithful(text, texts, at), p) for p, text, texts, at in answered
        ]
        if any(value is not None for value, _ in citing):
            columns["cited_faithfulness"] = [(float(v), p) for v, p in citing if v is not None]
    known = [p for p in answers if p.gold]
    gold = [[passage["kind"] == "gold" for passage in p.passages] for p in known]
    columns["recall"] = [
        (ranking.recall(flags, p.gold), p) for flags, p in zip(gold, known, strict=True)
    ]
    columns["ndcg"] = [
        (ranking.ndcg(flags, p.gold), p) for flags, p in zip(gold, known, strict=True)
    ]
    return columns


def _read(
    p: Prediction,
    said: str,
    texts: Sequence[Passage],
    example: Example | None,
    reader: reading.Reader,
) -> list[int]:
    """Where its answer was read; wrong answers that the passages or the example name are known."""
    if p.abstained:
        return []
    false = [example.meta.get("false_answer")] if example else []
    false += [text.meta.get("value") for text in texts if text.kind == "injected"]
    named = [value for value in false if isinstance(value, str) and value]
    return reader.read_in(said, p.question, texts, named)


def _abstention(system: str, cells: Cells, conditions: Sequence[str]) -> dict[str, Any] | None:
    """Precision and recall of refusing over all conditions with passages, clustered by question.

    A refusal is wanted where no gold passage was shown, or there is no answer. Precision: share of
    refusals that were wanted; recall: share of the wanted ones that came. What was retrieved for a
    question whose gold passages nobody named may hold one, and counts for neither.
    """
    answers = [
        p
        for c in conditions
        if c != "closed-book"
        for p in cells[system, c]
        if p.passages and (p.gold or not p.answers or not parse_condition(c).retrieved)
    ]
    wanted = [not p.answers or not _shows_gold(p) for p in answers]
    return _refusing(system, answers, wanted)


def _knowing_when(system: str, cells: Cells, conditions: Sequence[str]) -> dict[str, Any] | None:
    """Precision and recall of refusing what has no answer, among questions whose answer is shown.

    As SQuAD 2 scores it; None where every question has an answer.
    """
    answers = [
        p
        for c in conditions
        if c != "closed-book"
        for p in cells[system, c]
        if p.passages and (not p.answers or _shows_gold(p))
    ]
    unanswerable = [not p.answers for p in answers]
    return _refusing(system, answers, unanswerable) if any(unanswerable) else None


def _shows_gold(p: Prediction) -> bool:
    return any(passage["kind"] == "gold" for passage in p.passages)


def _refusing(
    system: str, answers: Sequence[Prediction], wanted: Sequence[bool]
) -> dict[str, Any] | None:
    row: dict[str, Any] = {"system": system, "ci95": {}}
    for name, pairs in (
        ("precision", [(w, p) for p, w in zip(answers, wanted, strict=True) if p.abstained]),
        ("recall", [(p.abstained, p) for p, w in zip(answers, wanted, strict=True) if w]),
    ):
        values = [float(value) for value, _ in pairs]
        labels = [p.cluster or p.id for _, p in pairs]
        row[name] = float(np.mean(values)) if values else None
        row["ci95"][name] = list(rate_intervals(_column(values), labels)[0]) if values else None
        row[f"{name}_n"] = len(values)
    return row if answers else None


def _column(values: Sequence[float]) -> Floats:
    return np.asarray(values, dtype=np.float64)[:, None]


def judge_bounds(verdicts: Mapping[str, int]) -> tuple[float, float]:
    """The judge's figure if every unscored answer were wrong, and if every one were right."""
    total = sum(verdicts.values())
    return verdicts["right"] / total, (verdicts["right"] + verdicts["unscored"]) / total
