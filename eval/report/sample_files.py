"""What other tools wrote of each sample, compared by this project's intervals and tests.

Read are the sample files of lm-evaluation-harness (`--log_samples`) and of BERGEN, and a run's own
answers. The scores are those that the tool gave; none is computed here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from neurorit.core.errors import BadInput
from neurorit.eval.report.compare_runs import (
    Clusters,
    paired_figures,
    read_counted,
    shared_clusters,
)
from neurorit.eval.stats.intervals import Floats, rate_intervals
from neurorit.eval.stats.paired import adjust

_FEWEST_SHARED = 10
_HARNESS_FILE = re.compile(r"samples_(.+)_\d{4}-\d\d-\d\dT[^/]*")
# BERGEN's own columns; all further ones of numbers are metrics.
_NO_METRIC = frozenset({"q_id", "doc_id"})
_OURS = ("em", "match", "match_substring", "f1")


class Sample(NamedTuple):
    """One question of a set, with the scores that its tool gave it.

    held: the set, such as a task; cluster: what it is resampled with.
    """

    held: str
    question: str
    scores: Mapping[str, float]
    cluster: str


class Samples(NamedTuple):
    """A run by name: its samples by set, each by question."""

    name: str
    sets: dict[str, dict[str, Sample]]


def read_samples(place: Path, name: str, cluster: str = "") -> Samples:
    """Read a sample file, or all of a folder; of a task that ran more than once the newest.

    cluster: a field of the samples (of the harness's: of their `doc`) whose equal values are one
    cluster. Raises BadInput with file:line for what is none of the known forms.
    """
    files = [place]
    if place.is_dir():
        found = [*place.rglob("samples_*.jsonl"), *place.rglob("eval_*_out.json")]
        files = sorted(found, key=lambda path: path.name) or [place / "predictions.jsonl"]
    sets: dict[str, dict[str, Sample]] = {}
    for path in files:
        if not path.is_file():
            raise BadInput(
                f"{path}: no samples there; name a file that lm_eval --log_samples or BERGEN wrote"
            )
        fresh: dict[str, dict[str, Sample]] = {}
        for sample in _read(path, cluster):
            of_set = fresh.setdefault(sample.held, {})
            if sample.question in of_set:
                raise BadInput(f"{path}: question {sample.question!r} stands there twice")
            of_set[sample.question] = sample
        sets |= fresh
    if not sets:
        raise BadInput(f"{place}: holds no sample")
    return Samples(name, sets)


def compare_samples(
    a: Samples, b: Samples, *, delta: float = 0.05, seed: int = 0
) -> list[dict[str, Any]]:
    """a minus b, paired by question, for every set and metric that both hold.

    Where each holds one set the two are compared whatever their names. A question that one side did
    not score counts for neither. Each metric is a family of Holm's. Raises BadInput where fewer
    than ten questions of a set are shared, or nothing is, or clusters conflict (`shared_clusters`).
    """
    pairs = [(held, held) for held in a.sets if held in b.sets]
    if len(a.sets) == len(b.sets) == 1:
        pairs = [(next(iter(a.sets)), next(iter(b.sets)))]
    found: list[tuple[str, str, Floats, Floats, Clusters]] = []
    for first, second in pairs:
        left, right = a.sets[first], b.sets[second]
        metrics = dict.fromkeys(name for one in left.values() for name in one.scores)
        for metric in metrics:
            shared = [
                key
                for key, one in left.items()
                if metric in one.scores and key in right and metric in right[key].scores
            ]
            if not shared:
                continue
            if len(shared) < _FEWEST_SHARED:
                raise BadInput(
                    f"{a.name} and {b.name} share {len(shared)} questions of {first}, and "
                    f"{_FEWEST_SHARED} are the fewest that are compared"
                )
            x, y = (
                np.array([side[key].scores[metric] for key in shared], dtype=np.float64)
                for side in (left, right)
            )
            labels = [[side[key].cluster for key in shared] for side in (left, right)]
            clusters = shared_clusters(a.name, labels[0], b.name, labels[1])
            found.append((first, metric, x, y, clusters))
    if not found:
        raise BadInput(
            f"{a.name} and {b.name} share no question with a score; they hold "
            f"{', '.join(a.sets)} and {', '.join(b.sets)}"
        )
    rows = []
    for held, metric, x, y, clusters in found:
        family = sum(one[1] == metric for one in found)
        row: dict[str, Any] = {"a": a.name, "b": b.name, "condition": held, "metric": metric}
        row |= paired_figures(x, y, clusters, family=family, delta=delta, seed=seed)
        row |= {"paired": True, "a_value": float(x.mean()), "b_value": float(y.mean())}
        for side, values in (("a", x), ("b", y)):
            rate = values.min() >= 0 and values.max() <= 1
            row[f"{side}_ci95"] = (
                list(rate_intervals(values[:, None], clusters)[0]) if rate else None
            )
        rows.append(row)
    for metric in dict.fromkeys(row["metric"] for row in rows):
        adjust([row for row in rows if row["metric"] == metric])
    return rows


def _read(path: Path, cluster: str) -> Iterator[Sample]:
    with open(path, encoding="utf-8") as stream:
        start = stream.read(1)
    if start == "[":
        yield from _bergen(path, cluster)
        return
    with open(path, encoding="utf-8") as stream:
        try:
            first = json.loads(stream.readline() or "{}")
        except ValueError:
            first = None
    if isinstance(first, dict) and {"system", "condition", "key"} <= first.keys():
        yield from _own(path)
    else:
        yield from _harness(path, cluster)


def _harness(path: Path, cluster: str) -> Iterator[Sample]:
    named = _HARNESS_FILE.fullmatch(path.stem)
    task = named[1] if named else path.stem
    lines: list[tuple[int, dict[str, Any]]] = []
    with open(path, encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                record = json.loads(line)
                record["doc_id"], record["metrics"] = record["doc_id"], list(record["metrics"])
            except (ValueError, KeyError, TypeError) as error:
                raise BadInput(
                    f"{path}:{number}: no sample of lm-evaluation-harness, BERGEN or a run of "
                    f"this project ({error!r})"
                ) from error
            lines.append((number, record))
    several = len({record.get("filter") for _, record in lines}) > 1
    for number, record in lines:
        doc = record.get("doc")
        own = doc.get("id") if isinstance(doc, dict) else None
        question = own if isinstance(own, (str, int)) else record.get("doc_hash")
        yield Sample(
            f"{task}, {record.get('filter')}" if several else task,
            str(record["doc_id"] if question is None else question),
            _numbers({name: record.get(name) for name in record["metrics"]}),
            _label(doc, cluster, f"{path}:{number}", str(record["doc_id"])),
        )


def _bergen(path: Path, cluster: str) -> Iterator[Sample]:
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        named = [(str(record["q_id"]), record) for record in records]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path}: no answers of BERGEN, a list with `q_id` ({error!r})") from error
    for question, record in named:
        scores = {name: value for name, value in record.items() if name not in _NO_METRIC}
        label = _label(record, cluster, f"{path}: question {question}", question)
        yield Sample(path.stem, question, _numbers(scores), label)


def _own(path: Path) -> Iterator[Sample]:
    predictions = read_counted(path)
    systems = {p.system for p in predictions}
    if len(systems) > 1:
        raise BadInput(
            f"{path}: holds {len(systems)} systems; runs of this project are compared by "
            "`neurorit-rag report RUN OTHER`"
        )
    for p in predictions:
        scores = _numbers({name: getattr(p, name) for name in _OURS})
        yield Sample(p.condition, p.id, scores, p.cluster or p.id)


def _numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    """Those that are numbers; a harness's perplexity, for one, is a pair of them."""
    kept = {n: float(v) for n, v in scores.items() if isinstance(v, (bool, int, float))}
    return {name: value for name, value in kept.items() if math.isfinite(value)}


def _label(record: Any, cluster: str, where: str, alone: str) -> str:
    if not cluster:
        return alone
    value = record.get(cluster) if isinstance(record, dict) else None
    if not isinstance(value, (str, int)):
        raise BadInput(f"{where}: has no field {cluster!r} to make a ‹cluster› of")
    return str(value)
