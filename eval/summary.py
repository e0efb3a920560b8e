"""From predictions to the numbers of report.json: rates, intervals, comparisons, flipped examples.

It knows nothing of files, models or pages. Comparisons are paired by question, and one Holm family
spans all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from eval import metrics
from eval.conditions import distractor_conditions
from eval.findings import BASE, METHOD, POOLED, write_findings
from eval.flips import pick_flips
from eval.journal import Prediction
from eval.judge import VERDICTS
from eval.power import questions_needed
from eval.robustness import robustness
from eval.statistics import Floats, holm, mcnemar_score, paired_comparison, rate_intervals
from retrieval.examples import Passage

_RATES: dict[str, Callable[[Prediction], float]] = {
    "em": lambda p: p.em,
    "match": lambda p: p.match,
    "f1": lambda p: p.f1,
    "abstain_rate": lambda p: p.abstained,
}

_GAP = 0.05

Passages = Mapping[tuple[str, str], Sequence[Passage]]


def summarise(
    predictions: Sequence[Prediction],
    systems: Sequence[str],
    conditions: Sequence[str],
    passages: Passages,
    *,
    seed: int = 0,
    own: Mapping[str, Passages] | None = None,
) -> dict[str, Any]:
    """The report without its manifest.

    passages: (question id, condition) -> passages in the prompt's order; own: the same of systems
    that were shown others. Every system must have
    answered the same questions under every condition, in one order: ValueError if not.
    """
    cells = _by_cell(predictions, systems, conditions)
    shown = {s: (own or {}).get(s, passages) for s in systems}
    results = [_result(s, c, cells[s, c], shown[s]) for s in systems for c in conditions]
    em: dict[tuple[str, str], Floats] = {
        cell: np.array([p.em for p in held], dtype=np.float64) for cell, held in cells.items()
    }
    noisy = distractor_conditions(list(conditions))
    pooled = []
    for system in systems if noisy else []:
        # The mean over conditions of one question is one number: the question is the cluster.
        em[system, POOLED] = np.mean([em[system, c] for c in noisy], axis=0)
        low, high = rate_intervals(em[system, POOLED][:, None])[0]
        pooled.append(
            {
                "system": system,
                "condition": POOLED,
                "over": noisy,
                "n": len(em[system, POOLED]),
                "em": float(em[system, POOLED].mean()),
                "ci95": {"em": [low, high]},
            }
        )
    compared = [*conditions, POOLED] if noisy else list(conditions)
    report: dict[str, Any] = {
        "schema": 1,
        "systems": list(systems),
        "conditions": list(conditions),
        "results": results,
        "pooled": pooled,
        "comparisons": _compare(em, systems, compared, seed),
        "robustness": robustness(cells, systems, conditions),
        "abstention": [row for s in systems if (row := _abstention(s, cells, conditions))],
        "power": _power(em, systems, compared),
        "examples": pick_flips(cells, systems, conditions, shown),
    }
    report["findings"] = write_findings(report)
    return report


def _by_cell(
    predictions: Sequence[Prediction], systems: Sequence[str], conditions: Sequence[str]
) -> dict[tuple[str, str], list[Prediction]]:
    cells: dict[tuple[str, str], list[Prediction]] = {
        (s, c): [] for s in systems for c in conditions
    }
    for prediction in predictions:
        cells[prediction.system, prediction.condition].append(prediction)
    orders = {tuple(p.id for p in held) for held in cells.values()}
    if len(orders) != 1 or not next(iter(orders)):
        raise ValueError("systems and conditions do not hold the same questions in one order")
    return cells


def _result(
    system: str, condition: str, held: Sequence[Prediction], passages: Passages
) -> dict[str, Any]:
    table = np.array([[rate(p) for rate in _RATES.values()] for p in held], dtype=np.float64)
    intervals = rate_intervals(table)
    row: dict[str, Any] = {"system": system, "condition": condition, "n": len(held)}
    row |= dict(zip(_RATES, map(float, table.mean(axis=0)), strict=True))
    verdicts = Counter(p.verdict for p in held)
    # An unscored answer has no verdict: it is counted beside the rate, not in it.
    judged = [float(p.verdict == "right") for p in held if p.verdict != "unscored"]
    if len(judged) == verdicts["abstained"] and verdicts["unscored"]:
        judged = []
    row["judge"] = sum(judged) / len(judged) if judged else None
    row["unscored"] = verdicts["unscored"]
    row["verdicts"] = {verdict: verdicts[verdict] for verdict in VERDICTS}
    row["ci95"] = {name: list(pair) for name, pair in zip(_RATES, intervals, strict=True)}
    row["ci95"]["judge"] = list(rate_intervals(_column(judged))[0]) if judged else None
    for name, values in _reading(condition, held, passages).items():
        row[name] = float(np.mean(values)) if values else None
        row["ci95"][name] = list(rate_intervals(_column(values))[0]) if values else None
    return row


def _reading(
    condition: str, held: Sequence[Prediction], passages: Passages
) -> dict[str, list[float]]:
    """What was retrieved and what was read from it; nothing where no passages were shown.

    misled_rate: of all answers; faithfulness: of those that are no refusal; recall and ndcg: of the
    one gold passage that a condition holds, in the prompt's order.
    """
    if not any(p.passages for p in held):
        return {}
    shown = [(p, passages.get((p.id, condition), ())) for p in held]
    found: dict[str, list[float]] = {}
    if all(texts for p, texts in shown if p.passages):
        found["misled_rate"] = [
            float(metrics.is_misled(p.output, p.answers, texts)) for p, texts in shown
        ]
        found["faithfulness"] = [
            float(metrics.is_faithful(p.output, texts)) for p, texts in shown if not p.abstained
        ]
    gold = [[passage["kind"] == "gold" for passage in p.passages] for p in held]
    found["recall"] = [metrics.recall(flags, max(1, sum(flags))) for flags in gold]
    found["ndcg"] = [metrics.ndcg(flags, max(1, sum(flags))) for flags in gold]
    return found


def _abstention(
    system: str,
    cells: Mapping[tuple[str, str], Sequence[Prediction]],
    conditions: Sequence[str],
) -> dict[str, Any] | None:
    """Precision and recall of refusing over all conditions with passages, clustered by question.

    A refusal is wanted where no gold passage was shown. Precision: share of refusals that were
    wanted; recall: share of the wanted ones that came.
    """
    held = [p for c in conditions if c != "closed-book" for p in cells[system, c] if p.passages]
    wanted = [not any(passage["kind"] == "gold" for passage in p.passages) for p in held]
    row: dict[str, Any] = {"system": system, "ci95": {}}
    for name, pairs in (
        ("precision", [(w, p.id) for p, w in zip(held, wanted, strict=True) if p.abstained]),
        ("recall", [(p.abstained, p.id) for p, w in zip(held, wanted, strict=True) if w]),
    ):
        values = [float(value) for value, _ in pairs]
        row[name] = float(np.mean(values)) if values else None
        row["ci95"][name] = (
            list(rate_intervals(_column(values), [identity for _, identity in pairs])[0])
            if values
            else None
        )
        row[f"{name}_n"] = len(values)
    return row if held else None


def _power(
    em: Mapping[tuple[str, str], Floats], systems: Sequence[str], conditions: Sequence[str]
) -> list[dict[str, Any]]:
    """For every pair and condition: what this many questions can see, and what a 5-point gap needs.

    The variance of the paired difference is the one observed.
    """
    rows = []
    for a, b in _pairs(systems):
        for condition in conditions:
            difference = em[a, condition] - em[b, condition]
            needed = questions_needed(difference, _GAP)
            rows.append(
                {"a": a, "b": b, "condition": condition, "metric": "em", "delta": _GAP}
                | needed._asdict()
            )
    return rows


def _column(values: Sequence[float]) -> Floats:
    return np.asarray(values, dtype=np.float64)[:, None]


def _compare(
    em: Mapping[tuple[str, str], Floats],
    systems: Sequence[str],
    conditions: Sequence[str],
    seed: int,
) -> list[dict[str, Any]]:
    """Every system against base, and the method against its rivals, under every condition.

    p: McNemar's score test where outcomes are binary, paired bootstrap for the mean over
    conditions.
    """
    rows: list[dict[str, Any]] = []
    for a, b in _pairs(systems):
        for condition in conditions:
            first, second = em[a, condition], em[b, condition]
            binary = condition != POOLED
            # 10,000 draws: the smallest bootstrap p must survive Holm over the family.
            found = paired_comparison(first, second, resamples=10_000, seed=seed)
            rows.append(
                {
                    "a": a,
                    "b": b,
                    "condition": condition,
                    "metric": "em",
                    "delta": found.delta,
                    "ci95": list(found.ci95),
                    "p": mcnemar_score(first, second) if binary else found.p,
                    "test": "mcnemar-score" if binary else "paired-bootstrap",
                    "n": len(first),
                }
            )
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = adjusted
    return rows


def _pairs(systems: Sequence[str]) -> list[tuple[str, str]]:
    pairs = [(s, BASE) for s in systems if s != BASE and BASE in systems]
    return pairs + [(METHOD, s) for s in systems if s not in (BASE, METHOD) and METHOD in systems]
