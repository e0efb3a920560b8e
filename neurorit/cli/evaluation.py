"""Options of the commands that evaluate and report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurorit.cli.options import Examples, Json, Out, Seed, run


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
    directory: Annotated[Path, typer.Argument(help="Where `eval` or `demo` wrote its report.")],
    as_json: Json = False,
) -> None:
    """Show a finished report's table again."""
    from neurorit.commands import evaluate as body

    run(lambda: body.show_report(directory), as_json)
