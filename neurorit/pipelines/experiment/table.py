"""The table of an experiment: means over seeds, paired differences, and their Markdown.

Two kinds of interval, named apart: over seeds (would another seed give the same?) and over
questions, paired (would other questions?).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neurorit.eval.conditions import distractor_conditions, parse_condition
from neurorit.eval.metrics.settings import BASE

DISTRACTORS = "distractor mean"
_RESAMPLES = 20_000
_AXES = ("robustness", "retention")
# What tuning changed of other text, a token.
_NATS = "nats"
_OF_TEXT = {f"loss on other text, {_NATS}": "delta", f"KL to the base, {_NATS}": "kl"}


def rows(
    document: Mapping[str, Any],
    variants: Sequence[str],
    seeds: Sequence[int],
    conditions: Sequence[str],
) -> list[dict[str, Any]]:
    """Means over seeds of each variant's figures, with t intervals; the base has one run.

    document: an evaluation's report, with its frontier where retention was measured.
    """
    found = {(r["system"], r["condition"]): r for r in document["results"]}
    kept = {row["system"]: row for row in document.get("frontier") or ()}
    texts = {
        row["system"]: row
        for row in (document.get("retention") or {}).get("rows", ())
        if row["part"] == "text"
    }
    noisy = distractor_conditions(list(conditions))
    refusing = _refusing(conditions)

    def figures(system: str) -> dict[str, float | None]:
        made = {f"{c}, EM": found[system, c]["em"] for c in conditions}
        if noisy:
            values = [found[system, c]["em"] for c in noisy]
            known = all(value is not None for value in values)
            made[f"{DISTRACTORS}, EM"] = sum(values) / len(values) if known else None
        made |= {f"{c}, refused": _refused(found[system, c]) for c in refusing}
        for axis in _AXES if kept else ():
            made[axis] = kept[system][axis] if system in kept else None
        for name, figure in _OF_TEXT.items() if texts else ():
            made[name] = texts[system][figure] if system in texts else None
        return made

    table = []
    for name in [BASE, *variants]:
        each = [figures(run) for run in _runs(name, seeds)]
        summary = {key: _over_seeds([one[key] for one in each]) for key in each[0]}
        table.append({"variant": name, "seeds": len(each), "figures": summary})
    return table


def frontier_of(table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Robustness against retention of the rows' means over seeds, with who dominates whom.

    Empty where retention was not measured. Intervals are those over seeds, of no width for the
    base, which has none; in an experiment of one seed there are no intervals.
    """
    from neurorit.eval.report.frontier import frontier

    sides: list[list[dict[str, Any]]] = []
    for axis in _AXES:
        held = [(row["variant"], row["figures"].get(axis) or {}) for row in table]
        several = any(found.get("ci95") for _, found in held)
        sides.append(
            [
                {
                    "system": name,
                    "metric": axis,
                    "value": found["mean"],
                    "ci95": found["ci95"] or ([found["mean"]] * 2 if several else None),
                }
                for name, found in held
                if found.get("mean") is not None
            ]
        )
    robust, kept = sides
    return frontier(robust, {"figures": kept}) if kept else []


def paired(
    predictions: Path,
    variants: Sequence[str],
    seeds: Sequence[int],
    conditions: Sequence[str],
    against: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Each variant minus the base, minus the first variant and minus its own rival, by question.

    against: variant -> its rival, where it has one of its own. A question's score is its exact
    match, averaged over the seeds and, for the distractor mean, over those conditions; questions
    are resampled. Holm's correction is over all rows. A question that one side did not score counts
    for neither; `n` is how many are left.
    """
    from neurorit.eval.stats.intervals import holm, paired_comparison

    scores: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    with open(predictions, encoding="utf-8") as stream:
        for line in stream:
            record = json.loads(line)
            if record["em"] is not None:
                scores[record["system"], record["condition"]][record["id"]] = float(record["em"])

    def of(name: str, wanted: Sequence[str]) -> dict[str, float]:
        parts = [scores[run, condition] for run in _runs(name, seeds) for condition in wanted]
        shared = set.intersection(*(set(part) for part in parts))
        return {one: sum(part[one] for part in parts) / len(parts) for one in sorted(shared)}

    noisy = distractor_conditions(list(conditions))
    measured = {DISTRACTORS: noisy} if noisy else {}
    measured |= {c: [c] for c in conditions if c not in noisy}
    made: list[dict[str, Any]] = []
    for figure, wanted in measured.items():
        pairs = [(name, rival) for rival in [BASE, *variants[:1]] for name in variants]
        for name, rival in dict.fromkeys([*pairs, *(against or {}).items()]):
            own, other = of(name, wanted), of(rival, wanted)
            ids = [one for one in own if one in other]
            if name == rival or not ids:
                continue
            found = paired_comparison(
                [own[i] for i in ids], [other[i] for i in ids], resamples=_RESAMPLES
            )
            made.append({"a": name, "b": rival, "figure": figure, "n": len(ids)} | found._asdict())
    for row, corrected in zip(made, holm([row["p"] for row in made]), strict=True):
        row["p_holm"] = corrected
    return made


def markdown(table: Mapping[str, Any]) -> str:
    """The table as Markdown, in percent (nats where it says so), with 95 % intervals."""
    parts = _markdown_measured(table)
    if table["selected"] is not None:
        chosen = ", ".join(f"{m}: {v}" for m, v in table["selected"].items())
        parts.append(f"Chosen by the declared rule: {chosen}.\n")
    if table["test"] is not None:
        parts += ["On test questions, once:\n", *_markdown_measured(table["test"])]
    return "\n".join(parts)


def _markdown_measured(measured: Mapping[str, Any]) -> list[str]:
    parts = [_markdown_rows(measured["rows"])]
    if measured.get("frontier"):
        parts.append("Robustness against retention, and who is better on one and no worse on both:")
        parts[-1] += "\n"
        parts.append(_markdown_frontier(measured["frontier"]))
    if measured.get("paired"):
        parts.append("Paired by question, points, 95 % bootstrap intervals over questions:\n")
        parts.append(_markdown_paired(measured["paired"]))
    return parts


def _runs(name: str, seeds: Sequence[int]) -> list[str]:
    return [BASE] if name == BASE else [f"{name}-{seed}" for seed in seeds]


def _refusing(conditions: Sequence[str]) -> list[str]:
    """Those whose refusals are told: unwanted on clean, wanted where there is noise alone."""
    parsed = [parse_condition(name) for name in conditions]
    return [c.name for c in parsed if c.name == "clean" or (c.noise is not None and not c.gold)]


def _refused(row: Mapping[str, Any]) -> float | None:
    """The share that was refused; on clean of what has an answer, where some questions have none.

    None where no question has one.
    """
    unwanted = row["condition"] == "clean" and "abstain_rate_answerable" in row
    rate: float | None = row["abstain_rate_answerable" if unwanted else "abstain_rate"]
    return rate


def _over_seeds(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean and 95 % t interval; no interval from one seed, no mean of an unscored figure."""
    import numpy as np
    from scipy import stats

    if any(value is None for value in values):
        return {"mean": None, "ci95": None, "values": list(values)}
    data = np.array(values, dtype=float)
    interval = None
    if len(data) > 1:
        half = float(stats.t.ppf(0.975, len(data) - 1) * data.std(ddof=1) / np.sqrt(len(data)))
        interval = [float(data.mean()) - half, float(data.mean()) + half]
    return {"mean": float(data.mean()), "ci95": interval, "values": data.tolist()}


def _markdown_rows(table: Sequence[Mapping[str, Any]]) -> str:
    from neurorit.eval.report.tables import markdown_table

    names = list(table[0]["figures"])
    rows = [
        [row["variant"], row["seeds"], *(_cell(row["figures"][name], name) for name in names)]
        for row in table
    ]
    return markdown_table(["variant", "seeds", *names], rows)


def _markdown_frontier(table: Sequence[Mapping[str, Any]]) -> str:
    from neurorit.eval.report.tables import markdown_table

    cells = [
        [
            row["system"],
            *(_cell({"mean": row[axis], "ci95": wide(row[f"{axis}_ci95"])}) for axis in _AXES),
            ", ".join(row["dominated_by"]),
        ]
        for row in table
    ]
    return markdown_table(["variant", *_AXES, "dominated by"], cells)


def of_a_share(interval: Sequence[float]) -> tuple[float, float]:
    """What is told of a t interval over seeds, which knows no bounds: the part from 0 to 1."""
    low, high = interval
    return max(0.0, low), min(1.0, high)


def wide(interval: Sequence[float] | None) -> Sequence[float] | None:
    """An interval over seeds; None where there was one seed, or none."""
    return interval if interval and interval[0] < interval[1] else None


def _markdown_paired(table: Sequence[Mapping[str, Any]]) -> str:
    from neurorit.eval.report.tables import markdown_table

    figures = list(dict.fromkeys(row["figure"] for row in table))
    differences = {(row["a"], row["b"], row["figure"]): _difference(row) for row in table}
    rows = [
        [f"{name} minus {rival}", *(differences.get((name, rival, one), "") for one in figures)]
        for name, rival in dict.fromkeys((row["a"], row["b"]) for row in table)
    ]
    return markdown_table(["difference", *figures], rows)


def _difference(row: Mapping[str, Any]) -> str:
    low, high = row["ci95"]
    star = "*" if row["p_holm"] < 0.05 else ""
    return f"{100 * row['delta']:+.1f}{star} ({100 * low:+.1f} to {100 * high:+.1f})"


def _cell(figure: Mapping[str, Any], name: str = "") -> str:
    if figure["mean"] is None:
        return "unscored"
    scale, digits = (1, 3) if name.endswith(_NATS) else (100, 1)
    text = f"{scale * figure['mean']:.{digits}f}"
    if figure["ci95"] is not None:
        low, high = figure["ci95"] if scale == 1 else of_a_share(figure["ci95"])
        text += f" ({scale * low:.{digits}f} to {scale * high:.{digits}f})"
    return text
