"""Robustness against retention: which systems no other beats on both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def frontier(
    robustness: Sequence[Mapping[str, Any]], retention: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """A row for every system that has both figures, with intervals and who dominates it.

    robustness: the report's rows; retention: the report's, None where it was not measured.
    dominated_by: the systems that are as good on both and better on one; `clearly_by`: those of
    them whose intervals lie above its own on both, none where an interval (`ci95`) is None.
    """
    if retention is None:
        return []

    def interval(row: Mapping[str, Any]) -> list[float] | None:
        return None if row["ci95"] is None else list(row["ci95"])

    robust = {
        row["system"]: row
        for row in robustness
        if row["metric"] == "robustness" and row["value"] is not None
    }
    rows = [
        {
            "system": kept["system"],
            "retention": kept["value"],
            "retention_ci95": interval(kept),
            "robustness": robust[kept["system"]]["value"],
            "robustness_ci95": interval(robust[kept["system"]]),
        }
        for kept in retention["figures"]
        if kept["system"] in robust
    ]
    for row in rows:
        better = [other for other in rows if _dominates(other, row)]
        row["dominated_by"] = [other["system"] for other in better]
        row["clearly_by"] = [other["system"] for other in better if _clearly(other, row)]
    return rows


def _dominates(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    axes = ("robustness", "retention")
    return all(one[axis] >= other[axis] for axis in axes) and any(
        one[axis] > other[axis] for axis in axes
    )


def _clearly(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    axes = ("robustness_ci95", "retention_ci95")
    known = all(row[axis] is not None for row in (one, other) for axis in axes)
    return known and all(one[axis][0] > other[axis][1] for axis in axes)
