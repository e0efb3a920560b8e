"""How far a judge can be trusted, and what it prefers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from neurorit.cli.options import PLAIN, App, Json, Seed, option, run
from neurorit.core.endpoint.call_settings import CallSettings
from neurorit.pipelines.evaluation.settings import JudgeSettings

judge_app = App(help=__doc__, **PLAIN)


_Judge = Annotated[str, typer.Option(help="lab, a judge's folder, or URL/v1#MODEL.")]


_Key = Annotated[str | None, option(JudgeSettings, "key", metavar="VARIABLE")]
_Repeats = Annotated[int | None, option(JudgeSettings, "repeats")]
_Thinking = Annotated[int | None, option(JudgeSettings, "thinking_tokens")]
_Request = Annotated[
    str | None,
    typer.Option(metavar="JSON", help="Further fields of every request; null leaves one out."),
]
_Concurrency = Annotated[int | None, option(CallSettings, "concurrency")]


@judge_app.command("calibrate")
def judge_calibrate(
    judge: _Judge = "lab",
    labels: Annotated[
        Path | None,
        typer.Option(help="JSONL: question, answers, answer, label, kind; else the lab's."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the result to this file.")] = None,
    answers: Annotated[
        int | None, typer.Option(min=20, help="How many of the lab's answers (600).")
    ] = None,
    mode: Annotated[str | None, option(JudgeSettings, "mode")] = None,
    repeats: _Repeats = None,
    thinking_tokens: _Thinking = None,
    request: _Request = None,
    key: _Key = None,
    concurrency: _Concurrency = None,
    cache: Annotated[Path | None, typer.Option(help="Directory of verdicts to share.")] = None,
    fail_under: Annotated[float | None, typer.Option(help="Exit 3 when kappa is below.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure a judge: kappa against labels, bias to length and place, orders in answers."""

    def work() -> Mapping[str, Any]:
        from neurorit.pipelines.evaluation import judge_trust as body

        return body.calibrate(
            body.judge_of_options(
                judge,
                {"mode": mode, "repeats": repeats, "key": key, "request": request}
                | {"thinking_tokens": thinking_tokens},
            ),
            labels,
            out=out,
            cache=cache,
            calls={"concurrency": concurrency},
            seed=seed,
            least=fail_under,
            answers=answers,
        )

    def show(found: Mapping[str, Any]) -> None:
        from neurorit.pipelines.evaluation import judge_trust as body

        body.show(found)

    run(work, as_json, show)


@judge_app.command("compare")
def judge_compare(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="Where `eval` wrote.")],
    judge: Annotated[str, typer.Option(help="URL/v1#MODEL.")],
    a: Annotated[str, typer.Option(help="A system of the run.")],
    b: Annotated[str, typer.Option(help="Another one.")],
    condition: Annotated[str | None, typer.Option(help="Only this condition.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Pairs at most.")] = None,
    key: _Key = None,
    concurrency: _Concurrency = None,
    repeats: _Repeats = None,
    thinking_tokens: _Thinking = None,
    request: _Request = None,
    cache: Annotated[
        Path | None, typer.Option(help="Directory of choices to share (the run's own).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask which of two systems' answers is better, each pair in both orders."""

    def work() -> Mapping[str, Any]:
        from neurorit.pipelines.evaluation import judge_trust as body

        return body.compare(
            directory,
            body.judge_of_options(
                judge,
                {"key": key, "repeats": repeats, "request": request}
                | {"thinking_tokens": thinking_tokens},
            ),
            a,
            b,
            condition=condition,
            limit=limit,
            calls={"concurrency": concurrency},
            cache=cache,
        )

    run(work, as_json)
