"""eval: systems x conditions through vLLM, scored, judged, held to gates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.conditions import CONDITIONS
from neurorit.commands.gates import check_gates, parse_gates
from neurorit.commands.progress import Reporter, reporting
from retrieval.errors import BadInput

if TYPE_CHECKING:
    from eval.calibration import Labelled
    from eval.judge import Judge

_LABELLED = 600


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
    wanted = parse_gates(gates)
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
    check_gates(document, wanted, out / "report.html")
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


def _print_table(document: Mapping[str, Any]) -> None:
    import sys

    from rich.console import Console

    from eval.report import print_table

    print_table(document, Console(file=sys.stderr))
