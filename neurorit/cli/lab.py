"""Options of the commands around the embedded world, and of the look at this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurorit.cli.options import PLAIN, Json, Out, Seed, run

lab_app = typer.Typer(help="The embedded world and its models.", **PLAIN)


def demo(
    out: Annotated[Path, typer.Option(help="Directory of the run.")] = Path("runs/demo"),
    questions: Annotated[int, typer.Option(min=20, help="Test questions.")] = 500,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option(help="Keep stages whose inputs are the same.")] = False,
    as_json: Json = False,
) -> None:
    """Run the whole job on the embedded world, from a corpus to a report."""
    from neurorit.pipelines import demo as body

    # It ends with its own table and what to run next.
    run(lambda: body.demo(out, questions, seed, resume=resume), as_json, show=lambda _: None)


def doctor(as_json: Json = False) -> None:
    """Say what this machine can do, what is missing and how to mend it."""
    from neurorit.pipelines import doctor as body

    run(lambda: body.examine(Path.cwd()), as_json, show=body.show)


def lab_world(
    out: Out,
    seed: Seed = 0,
    test: Annotated[int, typer.Option(min=1, help="People (and questions) for tests.")] = 600,
    as_json: Json = False,
) -> None:
    """Write the invented world: a corpus, and questions of three splits."""
    from neurorit.pipelines import lab

    run(lambda: lab.world(out, seed, test), as_json)


def lab_train(
    out: Annotated[Path, typer.Option(help="Directory to write; goes on from what is there.")],
    seed: Seed = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    as_json: Json = False,
) -> None:
    """Train the lab's base model from scratch."""
    from neurorit.pipelines import lab

    run(lambda: lab.train(out, seed, device), as_json)


def lab_judge(
    out: Out,
    reading: Annotated[Path, typer.Option(help="The reading model that `lab train` wrote.")],
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train the lab's judge from the reading model."""
    from neurorit.pipelines import lab

    run(lambda: lab.judge(out, reading, seed), as_json)


lab_app.command("world")(lab_world)
lab_app.command("train")(lab_train)
lab_app.command("judge")(lab_judge)
