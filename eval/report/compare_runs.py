"""Two finished runs against each other, paired where they asked the same questions.

It reads what runs wrote (predictions.jsonl) and asks no model. A question counts as the same when
its id and its accepted answers are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from neurorit.core.errors import BadInput
from neurorit.eval.predictions import Metric, Prediction, read_predictions
from neurorit.eval.report.summary import SCORES, clusters_of
from neurorit.eval.stats.intervals import (
    Floats,
    error_about,
    paired_comparison,
    rate_intervals,
    sign_flip_exact,
)
from neurorit.eval.stats.paired import adjust, power_of

_FEWEST_SHARED = 10
Clusters = Sequence[str] | None


class Run(NamedTuple):
    """A run by name: its predictions by system and condition, each by question."""

    name: str
    cells: dict[tuple[str, str], dict[Any, Prediction]]


def read_run(directory: Path, name: str) -> Run:
    """Read a run's predictions but of questions that its report leaves out as unscored.

    Raises BadInput where there are none.
    """
    path = Path(directory) / "predictions.jsonl"
    if not path.is_file():
        raise BadInput(f"{path}: no predictions there; two runs are compared by their answers")
    cells: dict[tuple[str, str], dict[Any, Prediction]] = {}
    for p in read_counted(path):
        cells.setdefault((p.system, p.condition), {})[p.id, p.answers] = p
    return Run(name, cells)


def read_counted(path: Path) -> list[Prediction]:
    """Predictions of a journal but of questions that the report beside it leaves out as unscored.

    Raises BadInput as `read_predictions` does.
    """
    report = path.with_name("report.json")
    left_out: set[str] = set()
    if report.is_file():
        manifest = json.loads(report.read_text(encoding="utf-8")).get("manifest") or {}
        left_out = set(manifest.get("left_out") or ())
    return [p for p in read_predictions(path).values() if p.id not in left_out]


def compare_runs(
    a: Run, b: Run, *, metric: Metric = "em", seed: int = 0, delta: float = 0.05
) -> list[dict[str, Any]]:
    """a minus b by `metric` for each system and condition that both hold.

    Where each run holds one system the two are compared whatever their names. With at least ten
    shared questions the comparison is paired over these alone; else the runs are taken as
    independent samples. Holm's family is the whole list. needed: questions to see `delta` at Holm's
    first step, for paired rows. Raises BadInput if nothing can be compared, or the runs' clusters
    conflict (`shared_clusters`).
    """
    rows = []
    matching = _matching(a, b)
    for first, second, condition in matching:
        left, right = a.cells[first, condition], b.cells[second, condition]
        shared = [key for key in left if key in right]
        paired = len(shared) >= _FEWEST_SHARED
        row: dict[str, Any] = {
            "a": f"{a.name}:{first}",
            "b": f"{b.name}:{second}",
            "condition": condition,
            "metric": metric,
        }
        own: tuple[Clusters, Clusters]
        if paired:
            ours, theirs = [left[k] for k in shared], [right[k] for k in shared]
            x, y = _scores(ours, metric), _scores(theirs, metric)
            clusters = shared_clusters(a.name, _labels(ours), b.name, _labels(theirs))
            own = clusters, clusters
            row |= paired_figures(x, y, clusters, family=len(matching), delta=delta, seed=seed)
        else:
            x, y = _scores(list(left.values()), metric), _scores(list(right.values()), metric)
            own = clusters_of(list(left.values())), clusters_of(list(right.values()))
            row |= _independent(x, y, *own) | {"n": min(len(x), len(y))}
        row |= {"paired": paired, f"a_{metric}": float(x.mean()), f"b_{metric}": float(y.mean())}
        row["a_ci95"], row["b_ci95"] = (
            list(rate_intervals(v[:, None], labels)[0])
            for v, labels in zip((x, y), own, strict=True)
        )
        rows.append(row)
    if not rows:
        raise BadInput(f"{a.name} and {b.name} share no system and condition to compare")
    adjust(rows)
    return rows


def shared_clusters(a: str, of_a: Sequence[str], b: str, of_b: Sequence[str]) -> Clusters:
    """The coarser of two runs' clusters of the same questions; None where each stands for itself.

    a, b: the runs' names. Raises BadInput where neither run's clusters hold the other's.
    """
    pairs = len(set(zip(of_a, of_b, strict=True)))
    if pairs not in (len(set(of_a)), len(set(of_b))):
        raise BadInput(
            f"{a} and {b} cluster the same questions otherwise, and neither's clusters hold the "
            "other's; sum one up again with the other's ‹cluster›"
        )
    coarser = of_b if pairs == len(set(of_a)) else of_a
    return coarser if len(set(coarser)) < len(coarser) else None


def paired_figures(
    x: Floats, y: Floats, clusters: Clusters, *, family: int, delta: float, seed: int = 0
) -> dict[str, Any]:
    """The difference x - y of the same questions with its interval and tests.

    family: how many rows Holm's correction is over, for the questions that `delta` needs.
    """
    comparison = paired_comparison(x, y, clusters, resamples=10_000, seed=seed)
    counts = bool(np.isin(np.concatenate([x, y]), (0.0, 1.0)).all())
    row: dict[str, Any] = {
        "delta": comparison.delta,
        "ci95": list(comparison.ci95),
        "p": comparison.p,
        "p_exact": sign_flip_exact(x - y, clusters) if counts else None,
        "test": "mcnemar-score" if counts and not clusters else "sign-flip-score",
        "n": len(x),
    }
    needed = power_of(x - y, delta, family, clusters)
    return row | {name: needed[name] for name in ("needed", "needed_alone", "alpha")}


def _matching(a: Run, b: Run) -> list[tuple[str, str, str]]:
    lone = [{system for system, _ in run.cells} for run in (a, b)]
    if all(len(names) == 1 for names in lone):
        first, second = (next(iter(names)) for names in lone)
        return [(first, second, c) for _, c in a.cells if (second, c) in b.cells]
    return [(system, system, c) for system, c in a.cells if (system, c) in b.cells]


def _independent(x: Floats, y: Floats, of_x: Clusters, of_y: Clusters) -> dict[str, Any]:
    """Newcombe's interval of a difference of two shares, and the two-sample score test.

    of_x, of_y: the cluster of each answer, where answers are not independent.
    """
    delta = float(x.mean() - y.mean())
    (low_x, high_x), (low_y, high_y) = (
        rate_intervals(v[:, None], labels)[0] for v, labels in ((x, of_x), (y, of_y))
    )
    low = delta - float(np.hypot(x.mean() - low_x, high_y - y.mean()))
    high = delta + float(np.hypot(high_x - x.mean(), y.mean() - low_y))
    both = np.concatenate([x, y])
    error = float(both.std() * np.sqrt(1 / len(x) + 1 / len(y)))
    if of_x is not None or of_y is not None:
        mean = float(both.mean())
        error = math.hypot(error_about(x, mean, of_x), error_about(y, mean, of_y))
    p = math.erfc(abs(delta) / error / math.sqrt(2)) if error else 1.0
    return {"delta": delta, "ci95": [low, high], "p": p, "test": "two-sample-score"}


def _labels(predictions: Sequence[Prediction]) -> list[str]:
    return [p.cluster or p.id for p in predictions]


def _scores(predictions: Sequence[Prediction], metric: Metric) -> Floats:
    return np.array([SCORES[metric](p) for p in predictions], dtype=np.float64)
