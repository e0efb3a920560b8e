"""Put an adapter into its base model and write the plain checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurorit.cli.options import Json, Model, Out, Overwrite, run


def merge(
    model: Model,
    adapter: Annotated[Path, typer.Option(help="What `tune --adapter` wrote.")],
    out: Out,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    from neurorit.pipelines import method as body

    run(lambda: body.merge(model, adapter, out, overwrite), as_json)
