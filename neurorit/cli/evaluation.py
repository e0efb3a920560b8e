"""Options of the commands that evaluate and report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurorit.cli.options import Examples, Json, Model, Out, Seed, run


def evaluate(
    system: Annotated[
        list[str], typer.Option(metavar="NAME=DIR", help="A checkpoint to evaluate; repeatable.")
    ],
    examples: Examples,
    out: Out,
    condition: Annotated[
        list[str] | None, typer.Option(help="A condition, such as distractor-2; repeatable.")
    ] = None,
    judge: Annotated[str, typer.Option(help="lab, none, or a judge's folder.")] = "none",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first questions.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer at most.")] = 24,
    seed: Seed = 0,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SYSTEM:CONDITION:METRIC=VALUE", help="Exit 3 when below; repeatable."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Answer questions under noise with each system; write report.json and report.html."""
    from neurorit.commands import evaluate as body

    run(
        lambda: body.evaluate(
            system, examples, out, condition, judge, limit, max_tokens, seed, fail_under
        ),
        as_json,
    )


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN [OTHER]", help="Where `eval` or `demo` wrote; two: compare."),
    ],
    table: Annotated[
        str | None, typer.Option("--format", help="md, csv or latex, to --out or stdout.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File for the --format.")] = None,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            metavar="robustness=0.80",
            help="Exit 3 when below: MEASURE=, SYSTEM:MEASURE= or SYSTEM:CONDITION:METRIC=VALUE.",
        ),
    ] = None,
    power: Annotated[
        float | None, typer.Option(help="Questions needed to see such a difference: 0.05.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a finished report again, as tables, against another run, or held to gates."""
    from neurorit.commands import report as body

    if table and not out:
        if as_json:
            raise typer.BadParameter("--json and --format both want stdout; give --out")
        body.show_report(runs, table, out, fail_under, power)
        return
    run(lambda: body.show_report(runs, table, out, fail_under, power), as_json)


def trace(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="Where `eval` wrote.")],
    model: Model,
    examples: Examples,
    system: Annotated[str, typer.Option(help="The run's system that --model is.")] = "base",
    condition: Annotated[str | None, typer.Option(help="Only this condition.")] = None,
    question: Annotated[list[str] | None, typer.Option(help="Question id; repeatable.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Wrong answers at most.")] = 20,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer at most.")] = 24,
    out: Annotated[Path | None, typer.Option(help="Also write the traces as JSONL.")] = None,
    as_json: Json = False,
) -> None:
    """Name the passage that made an answer wrong, by asking without each in turn."""
    from neurorit.commands import trace as body

    run(
        lambda: body.trace_run(
            directory, model, examples, system, condition, question, limit, max_tokens, out
        ),
        as_json,
    )
