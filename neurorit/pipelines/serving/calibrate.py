"""calibrate: the similarity below which a gateway does not answer, from validation questions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurorit.core.errors import BadInput
from neurorit.pipelines.progress import reporting

if TYPE_CHECKING:
    from neurorit.retrieval.settings import SearchSettings
    from neurorit.retrieval.sufficiency import Found, Step

_SEARCHED = 256


def calibrate(
    index: Path,
    questions: Path,
    *,
    abstain: float | None,
    risk: float | None,
    held_out: Path | None,
    top_k: int,
    settings: SearchSettings,
    out: Path | None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Choose a threshold on validation questions, and say what it gives there and on others.

    abstain: the share of questions that are not to be answered; risk: in its place, the most of the
    answered ones whose passages may lack the answer; held_out: questions it was not chosen on;
    out: a folder for the report. Raises BadInput for both or neither of the two.
    """
    from neurorit.core.artifact import Manifest, hash_inputs, writing
    from neurorit.eval.report.risk_coverage import page, table
    from neurorit.retrieval.retriever import Retriever
    from neurorit.retrieval.sufficiency import at, curve, for_abstention, for_risk

    if (abstain is None) == (risk is None):
        raise BadInput("calibrate: give ‹abstain› or ‹risk›, and not both")
    with reporting() as report:
        report.say("loading the index")
        retriever = Retriever.load(index, settings)
        found = {"validation": _scored(retriever, questions, top_k, report)}
        if held_out is not None:
            found["held_out"] = _scored(retriever, held_out, top_k, report)
    chosen = found["validation"]
    if abstain is not None:
        threshold = for_abstention(chosen, abstain).threshold
    else:
        assert risk is not None
        threshold = for_risk(chosen, risk).threshold
    result: dict[str, Any] = {
        "min_score": threshold,
        "mode": settings.mode,
        "top_k": top_k,
        **({"asked_abstention": abstain} if abstain is not None else {"asked_risk": risk}),
    }
    for name, scored in found.items():
        result[name] = _figures(scored, at(scored, threshold))
    if out is not None:
        curves = {name: curve(scored) for name, scored in found.items()}
        inputs = hash_inputs(index=index, questions=questions)
        manifest = Manifest("report", "neurorit-rag calibrate", inputs=inputs)
        with writing(out, manifest, overwrite=overwrite) as folder:
            (folder / "calibration.json").write_text(json.dumps(result, indent=2) + "\n")
            (folder / "risk-coverage.csv").write_text(table(curves))
            (folder / "report.html").write_text(page(curves, result), encoding="utf-8")
        result["report"] = str(out)
    return result


def show(result: Mapping[str, Any]) -> None:
    """The threshold and what it gives, for a person."""
    import typer

    typer.echo(f"serve with --min-score {result['min_score']:.6g} (retriever {result['mode']})")
    for name in ("validation", "held_out"):
        if name in result:
            one = result[name]
            typer.echo(
                f"{name.replace('_', '-')}: {one['not_answered']} of {one['questions']} questions "
                f"not answered, {100 * one['abstention']:.1f} % "
                f"({' to '.join(f'{100 * end:.1f}' for end in one['interval'])}); of the answered "
                f"{100 * one['risk']:.1f} % without the answer in their passages"
            )
    if "report" in result:
        typer.echo(f"report: {result['report']}/report.html")


def _figures(scored: Sequence[Found], step: Step) -> dict[str, Any]:
    """interval: 95 %, of the share that is not answered."""
    from neurorit.eval.stats.intervals import rate_intervals

    below = [[float(one.score < step.threshold)] for one in scored]
    return {
        "questions": len(scored),
        "not_answered": int(sum(map(sum, below))),
        "abstention": 1 - step.coverage,
        "interval": list(rate_intervals(below)[0]),
        "coverage": step.coverage,
        "risk": step.risk,
    }


def _scored(retriever: Any, questions: Path, top_k: int, report: Any) -> list[Found]:
    from neurorit.data.example_files import read_examples
    from neurorit.retrieval.sufficiency import Found

    examples = list(read_examples(questions, unanswered="all"))
    found: list[Found] = []
    for start in range(0, len(examples), _SEARCHED):
        some = examples[start : start + _SEARCHED]
        for example, hits in zip(
            some, retriever.search([one.question for one in some], top_k), strict=True
        ):
            best = float(hits[0].score) if hits else float("-inf")
            found.append(Found(best, _holds(example, hits)))
        report("questions searched", len(found), len(examples))
    return found


def _holds(example: Any, hits: Sequence[Any]) -> bool:
    """Whether a passage is one of the question's gold ones or, where none are named, says it."""
    from neurorit.data.answers import held_answer

    gold = set(example.meta.get("gold") or ())
    if gold:
        return any(hit.passage.id in gold for hit in hits)
    return any(
        held_answer(f"{hit.passage.title} {hit.passage.text}", example.answers) is not None
        for hit in hits
    )
