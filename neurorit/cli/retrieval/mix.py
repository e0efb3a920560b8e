"""Mix questions with gold and noisy passages into typed examples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurorit.cli.options import Assign, IndexDir, Json, Out, Overwrite, RecipeFile, Seed, run


def mix(
    questions: Annotated[Path, typer.Argument(help='JSONL of {"id", "question", "answers"}.')],
    index_dir: IndexDir,
    out: Out,
    purpose: Annotated[
        str, typer.Option("--for", help="train, or eval: pools for every noise condition.")
    ] = "train",
    recipe: RecipeFile = None,
    settings: Assign = None,
    seed: Seed = 0,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Make this question's example alone; repeatable."),
    ] = None,
    apart_from: Annotated[
        list[Path] | None,
        typer.Option(
            help="Draw no question that these examples hold, or nearly, or whose gold passage "
            "they hold; repeatable."
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    from neurorit.pipelines import retrieval as body

    run(
        lambda: body.mix(
            questions,
            index_dir,
            out,
            recipe,
            settings,
            purpose,
            seed,
            overwrite,
            only or (),
            apart_from=apart_from or (),
        ),
        as_json,
    )
