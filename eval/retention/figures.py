"""The retention of each system, from what it and its base made of the same texts and tasks.

Retention is the mean of what is kept of each part: of the text the ratio of the base's perplexity
to the system's, of a task the share of what the base has right that the system has right too. A
part lies between 0 and 1: what a system gains on one makes up for nothing it loses on another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from neurorit.eval.retention.text import TextDrift
from neurorit.eval.stats.intervals import (
    Interval,
    holm,
    paired_comparison,
    rate_intervals,
    ratio_interval,
    sign_flip_score,
)

TEXT = "text"
# Of fewer items that the base has right, the share that is kept says nothing.
LEAST = 20


def text_row(system: str, drifts: Sequence[TextDrift]) -> dict[str, Any]:
    """Loss a token of a system and its base, their difference and KL, each by text as a cluster.

    kept: perplexity of the base over the system's, 1 where the system's is lower.
    """
    table = np.array(drifts, dtype=np.float64)
    tokens, base_loss, loss, kl = table.T
    change = loss - base_loss
    delta = float(change.sum() / tokens.sum())
    low, high = ratio_interval(change, tokens)
    kl_low, kl_high = ratio_interval(kl, tokens)
    return {
        "system": system,
        "part": TEXT,
        "n": len(drifts),
        "tokens": int(tokens.sum()),
        "base": float(base_loss.sum() / tokens.sum()),
        "value": float(loss.sum() / tokens.sum()),
        "delta": delta,
        "delta_ci95": [low, high],
        "p": sign_flip_score(change),
        "kl": float(kl.sum() / tokens.sum()),
        "kl_ci95": [max(0.0, kl_low), kl_high],
        "kept": math.exp(-max(0.0, delta)),
        "kept_ci95": [math.exp(-max(0.0, high)), math.exp(-max(0.0, low))],
        "kept_n": len(drifts),
    }


def task_row(system: str, part: str, base: ArrayLike, right: ArrayLike) -> dict[str, Any]:
    """A task's rates of a system and its base over the same items, 0 or 1 each.

    kept: of the items that the base has right the share that the system has right; None where
    those are fewer than `LEAST`.
    """
    first, second = np.asarray(base, dtype=np.float64), np.asarray(right, dtype=np.float64)
    found = paired_comparison(second, first)
    of_base = second[first == 1]
    counted = len(of_base) >= LEAST
    return {
        "system": system,
        "part": part,
        "n": len(first),
        "base": float(first.mean()),
        "value": float(second.mean()),
        "delta": found.delta,
        "delta_ci95": list(found.ci95),
        "p": found.p,
        "kept": float(of_base.mean()) if counted else None,
        "kept_ci95": list(rate_intervals(of_base[:, None])[0]) if counted else None,
        "kept_n": len(of_base),
    }


def summarise(base: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The report's `retention`: the rows with Holm's p over all of them, and each system's figure.

    The base keeps all of itself, whatever it is asked: its intervals of what is kept are [1, 1].
    The interval of a mean of parts is Zou and Donner's (MOVER), from the parts' own intervals;
    parts are measured on other items each, and so independent.
    """
    listed = [dict(row) for row in rows]
    for row in listed:
        if row["system"] == base and row["kept"] is not None:
            row["kept_ci95"] = [1.0, 1.0]
    tested = [row for row in listed if row["system"] != base]
    for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = p
    figures = []
    for system in dict.fromkeys(row["system"] for row in listed):
        parts = [row for row in listed if row["system"] == system and row["kept"] is not None]
        if not parts:
            continue
        value = sum(row["kept"] for row in parts) / len(parts)
        low, high = _mean_interval([(row["kept"], row["kept_ci95"]) for row in parts])
        figures.append(
            {
                "system": system,
                "value": value,
                "ci95": [low, high],
                "parts": {row["part"]: row["kept"] for row in parts},
                "worst": min(parts, key=lambda row: row["kept"])["part"],
            }
        )
    return {"base": base, "rows": listed, "figures": figures, "least": LEAST}


def _mean_interval(parts: Sequence[tuple[float, Sequence[float]]]) -> Interval:
    mean = sum(value for value, _ in parts) / len(parts)
    below = math.sqrt(sum((value - low) ** 2 for value, (low, _) in parts)) / len(parts)
    above = math.sqrt(sum((high - value) ** 2 for value, (_, high) in parts)) / len(parts)
    return max(0.0, mean - below), min(1.0, mean + above)
