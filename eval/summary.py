"""From predictions to the numbers of report.json: rates, intervals, comparisons, flipped examples.

It knows nothing of files, models or pages. Comparisons are paired by question, and one Holm family
spans all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from eval.conditions import distractor_conditions
from eval.findings import BASE, METHOD, POOLED, write_findings
from eval.flips import pick_flips
from eval.journal import Prediction
from eval.judge import VERDICTS
from eval.statistics import (
    Floats,
    bootstrap_interval,
    bootstrap_intervals,
    holm,
    mcnemar,
    paired_comparison,
)
from retrieval.examples import Passage

_RATES: dict[str, Callable[[Prediction], float]] = {
    "em": lambda p: p.em,
    "match": lambda p: p.match,
    "f1": lambda p: p.f1,
    "abstain_rate": lambda p: p.abstained,
}

Passages = Mapping[tuple[str, str], Sequence[Passage]]


def summarise(
    predictions: Sequence[Prediction],
    systems: Sequence[str],
    conditions: Sequence[str],
    passages: Passages,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """The report without its manifest.

    passages: (question id, condition) -> passages in the prompt's order. Every system must have
    answered the same questions under every condition, in one order: ValueError if not.
    """
    cells = _by_cell(predictions, systems, conditions)
    results = [_result(s, c, cells[s, c], seed) for s in systems for c in conditions]
    em: dict[tuple[str, str], Floats] = {
        cell: np.array([p.em for p in held], dtype=np.float64) for cell, held in cells.items()
    }
    noisy = distractor_conditions(list(conditions))
    pooled = []
    for system in systems if noisy else []:
        # The mean over conditions of one question is one number: the question is the cluster.
        em[system, POOLED] = np.mean([em[system, c] for c in noisy], axis=0)
        low, high = bootstrap_interval(em[system, POOLED], seed=seed)
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
        "examples": pick_flips(cells, systems, conditions, passages),
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


def _result(system: str, condition: str, held: Sequence[Prediction], seed: int) -> dict[str, Any]:
    table = np.array([[rate(p) for rate in _RATES.values()] for p in held], dtype=np.float64)
    intervals = bootstrap_intervals(table, seed=seed)
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
    row["ci95"]["judge"] = list(bootstrap_interval(judged, seed=seed)) if judged else None
    return row


def _compare(
    em: Mapping[tuple[str, str], Floats],
    systems: Sequence[str],
    conditions: Sequence[str],
    seed: int,
) -> list[dict[str, Any]]:
    """Every system against base, and the method against its rivals, under every condition.

    p: exact McNemar where outcomes are binary, paired bootstrap for the mean over conditions.
    """
    pairs = [(s, BASE) for s in systems if s != BASE and BASE in systems]
    pairs += [(METHOD, s) for s in systems if s not in (BASE, METHOD) and METHOD in systems]
    rows: list[dict[str, Any]] = []
    for a, b in pairs:
        for condition in conditions:
            first, second = em[a, condition], em[b, condition]
            binary = condition != POOLED
            # 10,000 draws: the smallest bootstrap p must survive Holm over the family.
            found = paired_comparison(
                first, second, resamples=2_000 if binary else 10_000, seed=seed
            )
            rows.append(
                {
                    "a": a,
                    "b": b,
                    "condition": condition,
                    "metric": "em",
                    "delta": found.delta,
                    "ci95": list(found.ci95),
                    "p": mcnemar(first, second) if binary else found.p,
                    "test": "mcnemar-exact" if binary else "paired-bootstrap",
                    "n": len(first),
                }
            )
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = adjusted
    return rows
