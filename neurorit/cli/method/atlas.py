"""Look at mined neurons, compare and check them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurorit.cli.options import PLAIN, App, Examples, Json, Model, Out, Overwrite, Seed, run

atlas_app = App(help=__doc__, **PLAIN)


@atlas_app.command("show")
def atlas_show(
    atlas: Annotated[Path, typer.Argument(help="What `mine` wrote.")], as_json: Json = False
) -> None:
    """Counts, layers and residual of an atlas."""
    from neurorit.pipelines import atlas as body

    run(lambda: body.describe(atlas), as_json)


@atlas_app.command("plot")
def atlas_plot(
    atlas: Annotated[Path, typer.Argument(help="What `mine` wrote.")],
    out: Annotated[Path, typer.Option(help="Picture to write, .svg or .png.")],
    as_json: Json = False,
) -> None:
    """Draw how the neurons lie over the layers."""
    from neurorit.pipelines import atlas as body

    run(lambda: body.draw(atlas, out), as_json)


@atlas_app.command("compare")
def atlas_compare(
    atlas: Annotated[Path, typer.Argument(help="What `mine` wrote.")],
    other: Annotated[Path, typer.Argument(help="Another atlas of the same model.")],
    as_json: Json = False,
) -> None:
    """How far two atlases agree: Jaccard of the sets, rank correlation of the scores."""
    from neurorit.pipelines import atlas as body

    run(lambda: body.compare(atlas, other), as_json)


@atlas_app.command("select")
def atlas_select(
    atlas: Annotated[Path, typer.Argument(help="What `mine` wrote.")],
    out: Out,
    rule: Annotated[
        str,
        typer.Option(
            help="count, mean, difference, gradient, fisher, spared-gradient, spared-fisher, "
            "noise-gradient, random, active, file, or a registered one."
        ),
    ] = "count",
    budget: Annotated[
        str, typer.Option(help="Neurons of a side over all layers: 2%, 0.02 or 300.")
    ] = "5%",
    together: Annotated[
        bool, typer.Option("--together", help="The budget is of all sets together.")
    ] = False,
    level: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Share of false discoveries that is borne (0.05)."),
    ] = None,
    neurons: Annotated[
        Path | None, typer.Option(help="Rule file: LAYER NEURON [rel|irrel|shared] lines.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Whose gradients or activity are measured, if the atlas keeps none."),
    ] = None,
    examples: Annotated[Path | None, typer.Option(help="What they are measured on.")] = None,
    general: Annotated[
        str, typer.Option(help="Text that the model is to keep: a file, or lab.")
    ] = "",
    samples: Annotated[
        int, typer.Option(min=1, help="Examples, and texts, that are measured on.")
    ] = 256,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Choose neurons anew from an atlas's scores, in seconds; nothing is mined."""
    from neurorit.pipelines import atlas as body

    run(
        lambda: body.select(
            atlas,
            out,
            rule,
            budget,
            together=together,
            level=level,
            neurons=neurons,
            model=model,
            examples=examples,
            general=general,
            samples=samples,
            seed=seed,
            overwrite=overwrite,
        ),
        as_json,
    )


@atlas_app.command("verify")
def atlas_verify(
    atlas: Annotated[Path, typer.Argument(help="What `mine` wrote.")],
    model: Model,
    examples: Examples,
    samples: Annotated[int, typer.Option(min=2, help="Contexts of each side.")] = 200,
    draws: Annotated[int, typer.Option(min=1, help="Sets of random neurons.")] = 3,
    patch: Annotated[
        str, typer.Option(help="zero, or no-context: to what neurons are without passages.")
    ] = "zero",
    neurons: Annotated[
        list[Path] | None,
        typer.Option(help="A file of LAYER NEURON lines to silence too; may be repeated."),
    ] = None,
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
            patch=patch,
            neurons=neurons or (),
            batch_size=batch_size,
            dtype=dtype,
            device=device,
        ),
        as_json,
    )
