"""Add, remove and list the adapters of a running gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurorit.cli.options import PLAIN, App, Json, run

adapters_app = App(help=__doc__, **PLAIN)
Url = Annotated[str, typer.Option(help="Address of a running gateway.")]
AdminKey = Annotated[
    Path | None, typer.Option(help="The gateway's admin key; else NEURORIT_ADMIN_KEY.")
]
_URL = "http://127.0.0.1:8000"


@adapters_app.command("add")
def add(
    adapters: Annotated[
        list[str], typer.Argument(metavar="NAME=DIR", help="LoRA folders, and their names.")
    ],
    url: Url = _URL,
    admin_key_file: AdminKey = None,
    as_json: Json = False,
) -> None:
    """Serve LoRAs, also in the place of those that have the names."""
    from neurorit.pipelines.serving import adapters as body

    run(lambda: body.add(adapters, url, admin_key_file), as_json, body.show)


@adapters_app.command("remove")
def remove(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Which.")],
    url: Url = _URL,
    admin_key_file: AdminKey = None,
    as_json: Json = False,
) -> None:
    """Take adapters away; requests that run keep them to their end."""
    from neurorit.pipelines.serving import adapters as body

    run(lambda: body.remove(names, url, admin_key_file), as_json, body.show)


@adapters_app.command("list")
def list_(
    url: Url = _URL,
    api_key_file: Annotated[
        Path | None, typer.Option(help="The gateway's key; else NEURORIT_API_KEYS.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the adapters that can be asked."""
    from neurorit.pipelines.serving import adapters as body

    run(lambda: body.listed(url, api_key_file), as_json, body.show)
