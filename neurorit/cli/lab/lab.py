"""The embedded world and its models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurorit.cli.options import PLAIN, App, Json, Out, Seed, run

lab_app = App(help=__doc__, **PLAIN)


@lab_app.command("world")
def lab_world(
    out: Out,
    seed: Seed = 0,
    test: Annotated[int, typer.Option(min=1, help="People (and questions) for tests.")] = 600,
    as_json: Json = False,
) -> None:
    """Write the invented world: a corpus, and questions of three splits."""
    from neurorit.pipelines import lab

    run(lambda: lab.world(out, seed, test), as_json)


@lab_app.command("train")
def lab_train(
    out: Annotated[Path, typer.Option(help="Directory to write; goes on from what is there.")],
    seed: Seed = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    as_json: Json = False,
) -> None:
    """Train the lab's base model from scratch."""
    from neurorit.pipelines import lab

    run(lambda: lab.train(out, seed, device), as_json)


@lab_app.command("judge")
def lab_judge(
    out: Out,
    reading: Annotated[Path, typer.Option(help="The reading model that `lab train` wrote.")],
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train the lab's judge from the reading model."""
    from neurorit.pipelines import lab

    run(lambda: lab.judge(out, reading, seed), as_json)
