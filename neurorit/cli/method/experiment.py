"""Tune and evaluate methods x seeds; one table with intervals over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurorit.cli.options import Json, run


def experiment(
    file: Annotated[
        Path, typer.Argument(help="A YAML file, or a packaged name: ablation, answers, ...")
    ],
    out: Annotated[Path, typer.Option(help="Directory to write; goes on from what is there.")],
    ray: Annotated[
        str,
        typer.Option(
            help="Tune and evaluate on a Ray cluster (extra scale): its address, `auto`, `local`."
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    from neurorit.pipelines.experiment import run as body

    run(lambda: body.run(file, out, ray), as_json)
