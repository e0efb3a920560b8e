"""Name the passage that made an answer wrong, by asking without each in turn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurorit.cli.options import Examples, Json, run


def trace(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="Where `eval` wrote.")],
    model: Annotated[
        str, typer.Option(metavar="PLACE", help="A checkpoint's directory or URL/v1#MODEL.")
    ],
    examples: Examples,
    system: Annotated[str, typer.Option(help="The run's system that --model is.")] = "base",
    condition: Annotated[str | None, typer.Option(help="Only this condition.")] = None,
    question: Annotated[list[str] | None, typer.Option(help="Question id; repeatable.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Wrong answers at most.")] = 20,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of an answer at most (the run's).")
    ] = None,
    halves: Annotated[
        bool,
        typer.Option(
            "--halves", help="Leave out parts and their halves: fewer and shorter questions."
        ),
    ] = False,
    index_dir: Annotated[
        Path | None, typer.Option("--index", help="Where passages were retrieved from.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="VARIABLE", help="Environment variable with a key.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the traces as JSONL.")] = None,
    as_json: Json = False,
) -> None:
    from neurorit.pipelines.evaluation import trace as body

    run(
        lambda: body.trace_run(
            directory,
            model,
            examples,
            system,
            condition,
            question,
            limit,
            max_tokens,
            out,
            index=index_dir,
            key=key or "",
            halves=halves,
        ),
        as_json,
    )
