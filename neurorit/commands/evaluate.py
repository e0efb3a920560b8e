"""eval and report: systems x conditions through vLLM, scored, judged, gated.

The gate is a claim of the user's: SYSTEM:CONDITION:METRIC=VALUE, missed when the figure is below.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.conditions import CONDITIONS
from neurorit.commands.progress import Reporter, reporting
from retrieval.errors import BadInput, GateMissed

if TYPE_CHECKING:
    from eval.calibration import Labelled
    from eval.judge import Judge

_LABELLED = 600
_GATED = ("em", "match", "f1", "judge", "abstain_rate")


def evaluate(
    systems: Iterable[str],
    examples: Path,
    out: Path,
    conditions: Sequence[str] | None,
    judge: str,
    limit: int | None,
    max_tokens: int,
    seed: int,
    gates: Iterable[str] | None,
) -> Mapping[str, Any]:
    """Run the evaluation and return the report; raises GateMissed when a gate is missed."""
    models = dict(_named(system) for system in systems)
    wanted = [_parse_gate(gate) for gate in gates or ()]
    with reporting() as report:
        document = run_systems(
            models,
            examples,
            out,
            conditions or CONDITIONS,
            judge,
            report,
            limit=limit,
            max_tokens=max_tokens,
            seed=seed,
        )
    _print_table(document)
    for system, condition, metric, least in wanted:
        value = _figure(document, system, condition, metric)
        if value < least:
            raise GateMissed(
                f"--fail-under missed: {metric} of {system} on {condition} is {value:.3f}, "
                f"below {least:g} (report: {out / 'report.html'})"
            )
    return document


def run_systems(
    models: Mapping[str, Path],
    examples: Path,
    out: Path,
    conditions: Sequence[str],
    judge: str,
    report: Reporter,
    *,
    limit: int | None,
    max_tokens: int,
    seed: int,
    mining: Mapping[str, Any] | None = None,
    atlas_plot: Path | None = None,
) -> dict[str, Any]:
    """Answer with one vLLM worker for all systems, judge, and write the report into `out`."""
    from eval.runner import run_evaluation
    from neurorit.prompts import end_token_id
    from serving.offline import Completion, OfflineEngine

    chosen, calibration = _judge(judge, seed)
    with OfflineEngine(log=out / "vllm.log") as engine:

        def generate(system: str, model: Path, prompts: list[list[int]]) -> list[Completion]:
            from transformers import AutoTokenizer

            end = end_token_id(AutoTokenizer.from_pretrained(model))
            return engine.generate(model, prompts, max_tokens=max_tokens, stop_token_ids=[end])

        return run_evaluation(
            models,
            examples,
            conditions,
            out,
            chosen,
            seed,
            generate=generate,
            engine={"name": "vllm", "max_tokens": max_tokens, "temperature": 0},
            limit=limit,
            calibration=calibration,
            mining=mining,
            atlas_plot=atlas_plot,
            progress=report,
        )


def show_report(directory: Path) -> Mapping[str, Any]:
    """Print a finished report's table; returns the report."""
    path = directory / "report.json" if directory.is_dir() else directory
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no report there; `neurorit-rag eval` writes one") from error
    except ValueError as error:
        raise BadInput(f"{path}: not a report: {error}") from error
    if document.get("schema") != 1 or "results" not in document:
        raise BadInput(f"{path}: not a report of schema 1; run the evaluation again")
    _print_table(document)
    return document


def _judge(name: str, seed: int) -> tuple[Judge | None, list[Labelled] | None]:
    """The judge by its option, with the labelled answers that say how far to trust it."""
    if name == "none":
        return None, None
    from eval.calibration import Labelled
    from eval.judge import Item, LocalJudge

    if name != "lab":
        return LocalJudge(Path(name)), None
    from neurorit.lab import judge_model_dir
    from neurorit.lab.judge import labelled_verdicts

    labelled = [
        Labelled(Item(a.question, a.answers, a.answer), a.label, a.kind)
        for a in labelled_verdicts(seed, _LABELLED)
    ]
    return LocalJudge(judge_model_dir()), labelled


def _named(system: str) -> tuple[str, Path]:
    name, equals, directory = system.partition("=")
    if not name or not equals or not directory:
        raise BadInput(f"--system {system}: write NAME=DIR")
    return name, Path(directory)


def _parse_gate(gate: str) -> tuple[str, str, str, float]:
    names, _, value = gate.partition("=")
    parts = names.split(":")
    try:
        system, condition, metric = parts
        least = float(value)
    except ValueError as error:
        raise BadInput(f"--fail-under {gate}: write SYSTEM:CONDITION:METRIC=VALUE") from error
    if metric not in _GATED:
        raise BadInput(f"--fail-under {gate}: the metric is one of {', '.join(_GATED)}")
    return system, condition, metric, least


def _figure(document: Mapping[str, Any], system: str, condition: str, metric: str) -> float:
    for row in document["results"]:
        if row["system"] == system and row["condition"] == condition:
            if row[metric] is None:
                raise BadInput(f"--fail-under asks for {metric}, but it was not measured")
            return float(row[metric])
    raise BadInput(f"--fail-under names {system}:{condition}, which was not evaluated")


def _print_table(document: Mapping[str, Any]) -> None:
    import sys

    from rich.console import Console

    from eval.report import print_table

    print_table(document, Console(file=sys.stderr))
