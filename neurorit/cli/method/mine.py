"""Mine the neurons that serve and that follow noise, into an atlas."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from neurorit.cli.options import (
    Assign,
    Json,
    Model,
    Out,
    Overwrite,
    RecipeFile,
    Seed,
    options_from,
    run,
)
from neurorit.mining.settings import MiningSettings


@options_from(
    MiningSettings, "method", "objective", "irrelevant_target", "memory", "selection", "share",
    "neurons", "general", "neuron_list", "pipeline", file=True,
)  # fmt: skip
def mine(
    model: Model,
    examples: Annotated[
        Path,
        typer.Option("--examples", "--data", help="What `mix` wrote, or an examples JSONL file."),
    ],
    out: Out,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Only say what it would need on 1, 2, 4 and 8 devices."),
    ] = False,
    recipe: RecipeFile = None,
    settings: Assign = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
    **options: Any,
) -> None:
    from neurorit.pipelines import method as body

    if plan:
        run(
            lambda: body.plan_mining(model, examples, recipe, settings, seed, options=options),
            as_json,
        )
        return
    run(
        lambda: body.mine(model, examples, out, recipe, settings, seed, overwrite, options=options),
        as_json,
    )
