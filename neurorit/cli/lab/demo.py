"""Run the whole job on the embedded world, from a corpus to a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurorit.cli.options import Json, Seed, run


def demo(
    out: Annotated[Path, typer.Option(help="Directory of the run.")] = Path("runs/demo"),
    questions: Annotated[int, typer.Option(min=20, help="Test questions.")] = 500,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option(help="Keep stages whose inputs are the same.")] = False,
    as_json: Json = False,
) -> None:
    from neurorit.pipelines import demo as body

    # It ends with its own table and what to run next.
    run(lambda: body.demo(out, questions, seed, resume=resume), as_json, show=lambda _: None)
