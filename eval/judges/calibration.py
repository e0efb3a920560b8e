"""How far a judge can be trusted: its agreement with labelled answers."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurorit.core.errors import BadInput, NeuroritError
from neurorit.eval.judges.bias import measure_bias
from neurorit.eval.judges.judge import Judge, confidence_in, failure_of, give_verdicts
from neurorit.eval.predictions import VERDICTS, Item
from neurorit.eval.stats.intervals import RESAMPLES, Floats, bootstrap_interval

LABELS = ("right", "wrong", "abstained")
# A verdict that is less probable than this is one the judge is unsure of.
SURE = 0.9


@dataclass(frozen=True)
class Labelled:
    """An answer whose verdict is known. kind: how it was made (right, alias, verbose, ...)."""

    item: Item
    label: str
    kind: str


def parse_labelled(records: Sequence[Any], source: str = "labels") -> list[Labelled]:
    """Read {question, answers, answer, label, kind} records; raises BadInput with source:number."""
    labelled = []
    for number, record in enumerate(records, start=1):
        try:
            item = Item(
                str(record["question"]), tuple(map(str, record["answers"])), str(record["answer"])
            )
            label = record["label"]
            if label not in LABELS:
                raise ValueError(f"label {label!r} is not one of {', '.join(LABELS)}")
        except (KeyError, TypeError, ValueError) as error:
            why = f"field {error} is missing" if isinstance(error, KeyError) else error
            raise BadInput(f"{source}:{number}: not a labelled answer: {why}") from error
        labelled.append(Labelled(item, label, str(record.get("kind") or label)))
    if not labelled:
        raise BadInput(f"{source}: holds no labelled answer")
    return labelled


def read_labelled(path: Path) -> list[Labelled]:
    """Read labelled answers from JSONL; raises BadInput with file:line."""
    records = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise BadInput(f"{path}:{number}: no JSON: {error}") from error
    return parse_labelled(records, str(path))


def calibrate(
    judge: Judge, labelled: Sequence[Labelled], *, seed: int = 0, bias: bool = False
) -> dict[str, Any]:
    """Agreement with the labels: Cohen's kappa with its interval, share per kind, confusion.

    bias: also ask what `measure_bias` asks, about six times as many calls.

    An unscored answer counts as disagreement, and `unscored` says how many there are; where none
    got a verdict, NeuroritError. confusion: label -> verdict -> count. confidence: agreement of the
    verdicts whose probability was at least `SURE`, and of the others, where the judge says it.
    """
    verdicts = give_verdicts(judge, [record.item for record in labelled])
    unscored = verdicts.count("unscored")
    if unscored and not {"right", "wrong"} & set(verdicts):
        raise NeuroritError(
            f"the judge {judge.name} gave no verdict on any answer{failure_of(judge)}"
        )
    position: dict[str, int] = {verdict: i for i, verdict in enumerate(VERDICTS)}
    table = np.zeros((len(VERDICTS), len(VERDICTS)))
    by_kind: dict[str, list[bool]] = defaultdict(list)
    by_confidence: dict[bool, list[bool]] = defaultdict(list)
    for record, verdict in zip(labelled, verdicts, strict=True):
        table[position[record.label], position[verdict]] += 1
        by_kind[record.kind].append(record.label == verdict)
        sure = confidence_in(judge, record.item)
        if sure is not None and verdict in ("right", "wrong"):
            by_confidence[sure >= SURE].append(record.label == verdict)
    agreed = [hit for hits in by_kind.values() for hit in hits]
    drawn = np.random.default_rng(seed).multinomial(
        len(labelled), table.ravel() / len(labelled), size=RESAMPLES
    )
    low, high = np.quantile(_kappas(drawn.reshape(-1, *table.shape)), [0.025, 0.975])
    calibration = {
        "name": judge.name,
        "fingerprint": judge.fingerprint,
        "n": len(labelled),
        "unscored": unscored,
        "kappa": float(_kappas(table[None])[0]),
        "kappa_ci95": [float(low), float(high)],
        "agreement": sum(agreed) / len(agreed),
        "agreement_ci95": list(bootstrap_interval(agreed, seed=seed)),
        "kinds": {
            kind: {"n": len(hits), "agreement": sum(hits) / len(hits)}
            for kind, hits in sorted(by_kind.items())
        },
        "confidence": {
            name: {"n": len(hits), "agreement": sum(hits) / len(hits)}
            for name, sure in (("sure", True), ("unsure", False))
            if (hits := by_confidence[sure])
        },
        "confusion": {
            label: {verdict: int(table[i, j]) for j, verdict in enumerate(VERDICTS)}
            for i, label in enumerate(LABELS)
        },
    }
    return calibration | (
        {"bias": measure_bias(judge, labelled, verdicts, seed=seed)} if bias else {}
    )


def _kappas(tables: Any) -> Floats:
    """Cohen's kappa of each table of counts [tables, c, c]."""
    shares = np.asarray(tables, dtype=np.float64)
    shares = shares / shares.sum((1, 2), keepdims=True)
    observed = np.trace(shares, axis1=1, axis2=2)
    expected = (shares.sum(1) * shares.sum(2)).sum(1)
    # One category only: agreement by chance is certain, and kappa is 1 by convention.
    certain = expected >= 1 - 1e-12
    result: Floats = np.where(
        certain, 1.0, (observed - expected) / np.where(certain, 1.0, 1 - expected)
    )
    return result
