"""Options of `mine`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurorit.cli.options import Assign, Json, Model, Out, Overwrite, RecipeFile, Seed, run


def mine(
    model: Model,
    examples: Annotated[
        Path,
        typer.Option("--examples", "--data", help="What `mix` wrote, or an examples JSONL file."),
    ],
    out: Out,
    method: Annotated[
        str | None,
        typer.Option(help="integrated-gradients, gradient-activation, activation, ..."),
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="first-token, answer-span or log-prob.")
    ] = None,
    irrelevant_target: Annotated[
        str | None, typer.Option(help="own-answer (when misled) or gold.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Budget for activations, such as 2GiB.")
    ] = None,
    recipe: RecipeFile = None,
    settings: Assign = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Mine the neurons that serve and that follow noise, into an atlas."""
    from neurorit.pipelines import method as body

    options = {
        "method": method,
        "objective": objective,
        "irrelevant_target": irrelevant_target,
        "memory": memory,
    }
    run(
        lambda: body.mine(model, examples, out, recipe, settings, seed, overwrite, options=options),
        as_json,
    )
