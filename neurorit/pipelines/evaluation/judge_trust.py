"""judge calibrate and judge compare: how far a judge can be trusted, and which answers it prefers.

The figures are computed in `eval`; here are files, choices and what a person gets to see.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from neurorit.core.atomic_files import write_text
from neurorit.core.errors import BadInput, GateMissed, NeuroritError
from neurorit.pipelines.evaluation.judge import LABELLED, lab_labels, make_judge
from neurorit.pipelines.evaluation.settings import EvalSettings, JudgeSettings
from neurorit.pipelines.progress import reporting


def calibrate(
    settings: JudgeSettings,
    labels: Path | None,
    *,
    out: Path | None,
    cache: Path | None,
    calls: Mapping[str, Any],
    seed: int,
    least: float | None,
    answers: int | None = None,
) -> Mapping[str, Any]:
    """Kappa against labels and the judge's biases; raises GateMissed when kappa is below `least`.

    labels: JSONL of {question, answers, answer, label, kind}; None: the lab's labelled set, of so
    many `answers`.
    """
    import tempfile

    from neurorit.core.endpoint.reply_cache import Cache
    from neurorit.eval.judges.calibration import calibrate as measure
    from neurorit.eval.judges.calibration import read_labelled
    from neurorit.eval.judges.judge import CachedJudge

    judge, _ = make_judge(settings, seed, _calls(calls))
    if judge is None:
        raise BadInput("no judge to calibrate: ‹judge› lab, a folder, or URL/v1#MODEL")
    labelled = read_labelled(labels) if labels else lab_labels(seed, answers or LABELLED)
    with reporting() as report, tempfile.TemporaryDirectory() as nowhere:
        report.say(f"asking {judge.name} about {len(labelled)} labelled answers")
        with Cache(cache or Path(nowhere)) as store:
            found = measure(CachedJudge(judge, store), labelled, seed=seed, bias=True)
    found["labels"] = labels.name if labels else "lab"
    if out is not None:
        write_text(out, json.dumps(found, indent=2) + "\n")
    if least is not None and found["kappa"] < least:
        raise GateMissed(f"‹fail_under› missed: kappa is {found['kappa']:.3f}, below {least:g}")
    return found


def compare(
    run: Path,
    settings: JudgeSettings,
    first: str,
    second: str,
    *,
    condition: str | None,
    limit: int | None,
    calls: Mapping[str, Any],
    cache: Path | None = None,
) -> Mapping[str, Any]:
    """Which of two systems' answers a judge prefers, each pair shown in both orders.

    A pair on which the two orders disagree is a tie; equal answers are ties and not asked. Choices
    are kept in `cache` (default: the run's own), so that none is asked for twice.
    """
    from neurorit.core.endpoint.reply_cache import Cache
    from neurorit.eval.judges.endpoint import EndpointJudge, combine
    from neurorit.eval.judges.judge import failure_of
    from neurorit.eval.predictions import read_predictions
    from neurorit.eval.stats.intervals import bootstrap_interval

    judge, _ = make_judge(settings, 0, _calls(calls))
    if not isinstance(judge, EndpointJudge):
        raise BadInput("comparing answers needs an endpoint: ‹judge› URL/v1#MODEL")
    path = run / "predictions.jsonl"
    if not path.is_file():
        raise BadInput(f"{path}: no such file; `neurorit-rag eval` writes one")
    held = {
        (p.system, p.condition, p.id): p
        for p in read_predictions(path).values()
        if condition is None or p.condition == condition
    }
    names = {system for system, _, _ in held}
    for name in (first, second):
        if name not in names:
            raise BadInput(f"{run} holds no answers of {name!r}; it has {', '.join(sorted(names))}")
    places = [place[1:] for place in held if place[0] == first and (second, *place[1:]) in held]
    pairs = [(held[first, *place], held[second, *place]) for place in places[:limit]]
    differ = [(a, b) for a, b in pairs if a.output != b.output]
    with reporting() as report, Cache(cache or run) as store:
        report.say(f"{len(differ)} of {len(pairs)} pairs differ, each is asked in both orders")
        judge.settle(store)
        found = judge.prefer([(a.item, b.output) for a, b in differ], store)
    counts = Counter(combine(pair) for pair in found)
    if found and counts["unscored"] == len(found):
        raise NeuroritError(f"the judge {judge.name} chose in no pair{failure_of(judge)}")
    counts["tie"] += len(pairs) - len(differ)
    said = {"first": 1.0, "second": -1.0, "tie": 0.0}
    values = [said[c] for c in map(combine, found) if c != "unscored"]
    ids = [a.id for (a, _), pair in zip(differ, found, strict=True) if combine(pair) != "unscored"]
    values += [0.0] * (len(pairs) - len(differ))
    ids += [a.id for a, b in pairs if a.output == b.output]
    return {
        "judge": judge.name,
        "a": first,
        "b": second,
        "pairs": len(pairs),
        "a_preferred": counts["first"],
        "b_preferred": counts["second"],
        "ties": counts["tie"],
        "unscored": counts["unscored"],
        "orders_disagree": sum("unscored" not in p and p[0] != p[1] for p in found),
        "a_minus_b": sum(values) / len(values) if values else None,
        "ci95": list(bootstrap_interval(values, ids, bounds=(-1.0, 1.0))) if values else None,
    }


def judge_of_options(text: str, options: Mapping[str, Any]) -> JudgeSettings:
    """The judge as --judge names it, with the options that are given; `request` is JSON."""
    made = EvalSettings(judge=text).judge_settings()
    given = {name: value for name, value in options.items() if value is not None}
    if "request" in given:
        given["request"] = _fields(given["request"])
    return replace(made, **given)


def _fields(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise BadInput(f'‹request={text}›: a JSON object such as {{"temperature": null}}')
    return found


def show(found: Mapping[str, Any]) -> None:
    """A calibration for a person, on stdout."""
    low, high = found["kappa_ci95"]
    print(f"{found['name']} on {found['n']} labelled answers ({found['labels']})")
    if found["unscored"]:
        print(f"no verdict on {found['unscored']} of them, which count as disagreement")
    print(f"kappa {found['kappa']:.3f} ({low:.3f} to {high:.3f})")
    low, high = found["agreement_ci95"]
    print(f"agreement {found['agreement']:.1%} ({low:.1%} to {high:.1%})")
    for kind, row in found["kinds"].items():
        print(f"  {kind}: {row['agreement']:.1%} of {row['n']}")
    for name, row in found["confidence"].items():
        print(f"  verdicts that it is {name} of: {row['agreement']:.1%} of {row['n']}")
    bias = found["bias"]
    for name, key in (
        ("judged right, long less short answers", ("length", "long_minus_short")),
        ("judged right, references backwards less forwards", ("alias_order", None)),
        ("answer shown first is chosen (0.5: no preference)", ("place", "first_chosen")),
    ):
        row = bias[key[0]]
        if row is None:
            continue
        value = row[key[1] or "right_backwards_minus_forwards"]
        print(f"{name}: {value:+.3f} ({row['ci95'][0]:+.3f} to {row['ci95'][1]:+.3f})")
    for row in bias["orders"]:
        shown = row["order"].replace("\n", " / ")
        print(f"wrong answers turned right by {shown!r}: {row['flips']} of {row['n']}")


def _calls(calls: Mapping[str, Any]) -> Any:
    given = {name: value for name, value in calls.items() if value is not None}
    return EvalSettings(calls=given).call_settings()
