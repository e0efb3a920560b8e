"""Add passages to an index and delete some of it, without a rebuild."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from neurorit.cli.options import Json, option, parse_fields, run
from neurorit.retrieval.settings import BuildSettings


def update(
    index_dir: Annotated[Path, typer.Argument(metavar="INDEX", help="What `index` wrote.")],
    add: Annotated[Path | None, typer.Option(help="A corpus to add.")] = None,
    delete: Annotated[
        Path | None, typer.Option(help="File with the ids to delete, one a line.")
    ] = None,
    delete_where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=VALUE",
            help="Delete what has this in its meta; given again, what has all of them.",
        ),
    ] = None,
    compact: Annotated[
        bool,
        typer.Option("--compact", help="Bring the segments together, without what was deleted."),
    ] = False,
    sparse: Annotated[
        str,
        typer.Option(help="A sparse encoder (SPLADE) to search by too: encode all that is left."),
    ] = "",
    batch_size: Annotated[int, option(BuildSettings, "batch_size")] = BuildSettings.batch_size,
    as_json: Json = False,
) -> None:
    from neurorit.pipelines import retrieval as body

    def work() -> Mapping[str, Any]:
        where = parse_fields(delete_where, "--delete-where")
        return body.update(
            index_dir, add, delete, where, batch_size, compact=compact, sparse=sparse
        )

    run(work, as_json)
