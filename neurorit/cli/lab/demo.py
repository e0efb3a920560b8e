"""Run the whole job: on the embedded world, or on a real model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurorit.cli.options import Json, Seed, run


def demo(
    model: Annotated[
        str,
        typer.Option(help="A real model: smollm2, or a checkpoint's folder; else the lab's own."),
    ] = "",
    data: Annotated[
        Path | None,
        typer.Option(
            help="With --model: a folder with corpus.jsonl and questions, as `data fetch` writes."
        ),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="With --model: its settings, a file or a packaged name.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory of the run.  [default: runs/demo, or runs/MODEL]"),
    ] = None,
    questions: Annotated[
        int | None,
        typer.Option(min=20, help="Test questions.  [default: 500, or what the recipe says]"),
    ] = None,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option(help="Keep stages whose inputs are the same.")] = False,
    as_json: Json = False,
) -> None:
    from neurorit.core.errors import BadInput

    # Both end with their own table and what to run next.
    if model:
        from neurorit.pipelines.demo import real

        place = out or Path("runs") / Path(model).name
        run(
            lambda: real.demo(
                model,
                place,
                data=data,
                recipe=recipe,
                questions=questions,
                seed=seed,
                resume=resume,
            ),
            as_json,
            show=lambda _: None,
        )
        return
    from neurorit.pipelines.demo import embedded

    def body() -> dict[str, object]:
        if data is not None or recipe is not None:
            named = "data" if data is not None else "recipe"
            raise BadInput(f"‹{named}› is for a real model: name one with ‹model›, such as smollm2")
        return embedded.demo(out or Path("runs/demo"), questions or 500, seed, resume=resume)

    run(body, as_json, show=lambda _: None)
