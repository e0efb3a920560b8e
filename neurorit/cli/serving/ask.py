"""Ask a running gateway one question."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurorit.cli.options import Json, run


def ask(
    question: Annotated[str, typer.Argument(help="The question.")],
    url: Annotated[str, typer.Option(help="Address of a running gateway.")] = (
        "http://127.0.0.1:8000"
    ),
    api_key_file: Annotated[
        Path | None, typer.Option(help="The gateway's key; else NEURORIT_API_KEYS.")
    ] = None,
    as_json: Json = False,
) -> None:
    from neurorit.pipelines.serving import serve as body

    run(lambda: body.ask(question, url, api_key_file), as_json)
