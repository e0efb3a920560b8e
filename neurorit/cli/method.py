"""Options of the commands that mine and tune: the method itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurorit.cli.options import (
    PLAIN,
    Assign,
    Examples,
    Json,
    Model,
    Out,
    Overwrite,
    RecipeFile,
    Seed,
    run,
)

atlas_app = typer.Typer(help="Look at mined neurons, compare and check them.", **PLAIN)


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


def tune(
    model: Model,
    examples: Examples,
    out: Out,
    method: Annotated[
        str, typer.Option(help="neuro-rit; sft, lora, retrobust; or a control: see docs/method.md.")
    ] = "neuro-rit",
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
    """Tune a model in two stages (or by a baseline) and write a plain checkpoint."""
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


def merge(
    model: Model,
    adapter: Annotated[Path, typer.Option(help="What `tune --adapter` wrote.")],
    out: Out,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Put an adapter into its base model and write the plain checkpoint."""
    from neurorit.pipelines import method as body

    run(lambda: body.merge(model, adapter, out, overwrite), as_json)


def experiment(
    file: Annotated[Path, typer.Argument(help="YAML: what is tuned, how, and on what measured.")],
    out: Annotated[Path, typer.Option(help="Directory to write; goes on from what is there.")],
    as_json: Json = False,
) -> None:
    """Tune and evaluate methods x seeds; one table with intervals over seeds."""
    from neurorit.pipelines.experiment import run as body

    run(lambda: body.run(file, out), as_json)


def atlas_show(
    atlas: Annotated[Path, typer.Argument(help="What `mine` wrote.")], as_json: Json = False
) -> None:
    """Counts, layers and residual of an atlas."""
    from neurorit.pipelines import atlas as body

    run(lambda: body.describe(atlas), as_json)


def atlas_plot(
    atlas: Annotated[Path, typer.Argument(help="What `mine` wrote.")],
    out: Annotated[Path, typer.Option(help="Picture to write, .svg or .png.")],
    as_json: Json = False,
) -> None:
    """Draw how the neurons lie over the layers."""
    from neurorit.pipelines import atlas as body

    run(lambda: body.draw(atlas, out), as_json)


def atlas_compare(
    atlas: Annotated[Path, typer.Argument(help="What `mine` wrote.")],
    other: Annotated[Path, typer.Argument(help="Another atlas of the same model.")],
    as_json: Json = False,
) -> None:
    """How far two atlases agree: Jaccard of the sets, rank correlation of the scores."""
    from neurorit.pipelines import atlas as body

    run(lambda: body.compare(atlas, other), as_json)


def atlas_verify(
    atlas: Annotated[Path, typer.Argument(help="What `mine` wrote.")],
    model: Model,
    examples: Examples,
    samples: Annotated[int, typer.Option(min=2, help="Contexts of each side.")] = 200,
    draws: Annotated[int, typer.Option(min=1, help="Sets of random neurons.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts in one pass.")] = 16,
    dtype: Annotated[str, typer.Option(help="auto (as stored), float32 or bfloat16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Silence the neurons, without training, and measure what changes against controls."""
    from neurorit.pipelines import atlas as body

    run(
        lambda: body.verify(
            atlas,
            model,
            examples,
            samples,
            draws,
            seed,
            batch_size=batch_size,
            dtype=dtype,
            device=device,
        ),
        as_json,
    )


atlas_app.command("show")(atlas_show)
atlas_app.command("plot")(atlas_plot)
atlas_app.command("compare")(atlas_compare)
atlas_app.command("verify")(atlas_verify)
