"""Gates of `--fail-under`: a figure of a report that must not be below a value, or above it.

SYSTEM:CONDITION:METRIC=VALUE names a figure of one condition; SYSTEM:MEASURE=VALUE one of the
robustness measures; either name alone holds for every system but `base`, a metric under every
condition that has it. `<=` in place of `=` is a ceiling, for what should be low, such as misled
answers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from neurorit.core.errors import BadInput, GateMissed

FORM = "[SYSTEM:CONDITION:]METRIC=VALUE or [SYSTEM:]MEASURE=VALUE (<= for a ceiling)"
_TEXT = re.compile(r"([^<>=]+)(<=|>=|=)([^<>=]+)")
_RATES = (
    "em",
    "match",
    "match-substring",
    "f1",
    "parts",
    "judge",
    "nuggets",
    "abstain_rate",
    "abstain_rate_answerable",
    "misled_rate",
    "faithfulness",
)
_MEASURES = ("robustness", "noise-area", "no-degradation", "size", "order", "query", "retention")


class Gate(NamedTuple):
    """What must be at least `bound`, or at most where it is a ceiling.

    system or condition is None where the text names none.
    """

    text: str
    system: str | None
    condition: str | None
    metric: str
    bound: float
    ceiling: bool


def parse_gates(texts: Iterable[str] | None) -> list[Gate]:
    """Read the options' values; raises BadInput that names the option for any other form."""
    return [_parse(text) for text in texts or ()]


def check_gates(
    document: Mapping[str, Any], gates: Iterable[Gate], place: Path, *, by_interval: bool = False
) -> None:
    """Raise GateMissed for all that are missed, BadInput for a figure that was not measured.

    by_interval: the worse end of the 95 % interval is held to the bound, not the figure.
    """
    missed = []
    for gate in gates:
        for name, value, (low, high) in _figures(document, gate):
            held = (high if gate.ceiling else low) if by_interval else value
            if (held > gate.bound) if gate.ceiling else (held < gate.bound):
                missed.append(
                    f"{gate.metric} of {name} is {value:.3f} "
                    f"(95 % interval {low:.3f} to {high:.3f}), "
                    f"{'above' if gate.ceiling else 'below'} {gate.bound:g}"
                    + (" at its worse end" if by_interval else "")
                )
    if missed:
        raise GateMissed(f"‹fail_under› missed: {'; '.join(missed)} (report: {place})")


def _parse(text: str) -> Gate:
    found = _TEXT.fullmatch(text.strip())
    try:
        bound = float(found[3]) if found else math.nan
    except ValueError:
        bound = math.nan
    if found is None or not math.isfinite(bound):
        raise BadInput(f"‹fail_under={text}›: write {FORM}")
    parts, ceiling = found[1].strip().split(":"), found[2] == "<="
    for i, part in enumerate(parts[:2]):
        if part in _MEASURES:
            # What follows belongs to the measure: no-degradation:gold, noise-area:random.
            system = parts[0] if i else None
            return Gate(text, system, None, ":".join(parts[i:]), bound, ceiling)
    if len(parts) not in (1, 3):
        raise BadInput(f"‹fail_under={text}›: write {FORM}")
    if parts[-1] not in _RATES:
        known = ", ".join((*_RATES, *_MEASURES))
        raise BadInput(f"‹fail_under={text}›: the metric is one of {known}")
    system, condition = (parts[0], parts[1]) if len(parts) == 3 else (None, None)
    return Gate(text, system, condition, parts[-1], bound, ceiling)


def _figures(document: Mapping[str, Any], gate: Gate) -> list[tuple[str, float, tuple[float, ...]]]:
    if gate.condition is not None:
        for row in document["results"]:
            if (row["system"], row["condition"]) == (gate.system, gate.condition):
                if row.get(gate.metric) is None:
                    raise BadInput(f"‹fail_under› asks for {gate.metric}, which was not measured")
                where = f"{gate.system} on {gate.condition}"
                return [(where, float(row[gate.metric]), tuple(row["ci95"][gate.metric]))]
        raise BadInput(
            f"‹fail_under› names {gate.system}:{gate.condition}, which was not evaluated"
        )
    systems = [gate.system] if gate.system else list(document["systems"])
    if not gate.system and len(systems) > 1:
        systems = [name for name in systems if name != "base"]
    if gate.metric in _RATES:
        rows = [
            (f"{row['system']} on {row['condition']}", float(row[gate.metric]), row["ci95"])
            for row in document["results"]
            if row["system"] in systems and row.get(gate.metric) is not None
        ]
        if not rows:
            raise BadInput(f"‹fail_under› asks for {gate.metric}, which was not measured")
        return [(name, value, tuple(ci95[gate.metric])) for name, value, ci95 in rows]
    held = {
        row["system"]: (row["system"], float(row["value"]), tuple(row["ci95"]))
        for row in document.get("robustness", ())
        if row["metric"] == gate.metric and row["value"] is not None
    }
    if gate.metric == "retention":
        return _retention(document, gate, systems)
    for name in systems:
        if name not in held:
            raise BadInput(
                f"‹fail_under={gate.text}›: {gate.metric} of {name} was not measured; it needs "
                "conditions that vary the noise (clean and distractor-4, or closed-book) and "
                "questions that are right to begin with"
            )
    return [held[name] for name in systems if name is not None]


def _retention(
    document: Mapping[str, Any], gate: Gate, systems: Iterable[str]
) -> list[tuple[str, float, tuple[float, ...]]]:
    figures = (document.get("retention") or {}).get("figures", ())
    held = {row["system"]: row for row in figures}
    for name in systems:
        if name not in held:
            raise BadInput(
                f"--fail-under {gate.text}: retention of {name} was not measured; ask for it with "
                "--retention, for checkpoints"
            )
    return [(name, float(held[name]["value"]), tuple(held[name]["ci95"])) for name in systems]
