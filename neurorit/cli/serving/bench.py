"""Measure what runs already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurorit.cli.options import PLAIN, App, Json, run

bench_app = App(help=__doc__, **PLAIN)


@bench_app.command("serve")
def bench_serve(
    url: Annotated[str, typer.Option(help="Address of a running gateway.")] = (
        "http://127.0.0.1:8000"
    ),
    questions: Annotated[
        Path | None, typer.Option(help="JSONL with a `question` each; else one question again.")
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Clients that each wait for their answer.")
    ] = 16,
    requests: Annotated[int, typer.Option(min=1, help="Requests in all.")] = 200,
    rate: Annotated[
        float, typer.Option(min=0, help="Requests a second, sent by a clock; 0: by clients.")
    ] = 0.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to send by the clock.")] = 30.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 32,
    api_key_file: Annotated[
        Path | None, typer.Option(help="The gateway's key; else NEURORIT_API_KEYS.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a running gateway: answers a second, first token, whole answer, retrieval."""
    from neurorit.pipelines.serving import bench as body

    run(
        lambda: body.bench(
            url,
            questions,
            concurrency=concurrency,
            requests=requests,
            rate=rate,
            seconds=seconds,
            max_tokens=max_tokens,
            api_key_file=api_key_file,
        ),
        as_json,
        body.show,
    )


@bench_app.callback()
def _group() -> None:
    """Keeps `serve` a command of its own while it is the only one."""
