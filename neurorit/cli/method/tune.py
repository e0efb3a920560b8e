"""Tune a model in two stages (or by a rival method) and write a plain checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurorit.cli.options import (
    Assign,
    Examples,
    Json,
    Model,
    Out,
    Overwrite,
    RecipeFile,
    Seed,
    option,
    run,
)
from neurorit.tuning.settings import TuneSettings


def tune(
    model: Model,
    examples: Examples,
    out: Out,
    method: Annotated[str, option(TuneSettings, "method")] = TuneSettings.method,
    atlas: Annotated[
        Path | None, typer.Option(help="What `mine` wrote; mined beside --out when not given.")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="Also write what changed, alone, to this directory.")
    ] = None,
    verify: Annotated[
        int, typer.Option(min=0, help="Prompts to answer by vLLM and Hugging Face afterwards.")
    ] = 0,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say what it would need: memory, steps, time.")
    ] = False,
    recipe: RecipeFile = None,
    settings: Assign = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    from neurorit.pipelines import method as body

    if plan:
        run(
            lambda: body.plan(model, examples, method, atlas, recipe, settings),
            as_json,
        )
        return
    run(
        lambda: body.tune(
            model,
            examples,
            out,
            method,
            atlas,
            recipe,
            settings,
            seed,
            overwrite,
            adapter=adapter,
            verify=verify,
        ),
        as_json,
    )
