"""Put an adapter into its base model and write the plain checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurorit.cli.options import Json, Model, Out, Overwrite, run
from neurorit.tuning.settings import MAX_LORA_RANK


def merge(
    model: Model,
    adapter: Annotated[Path, typer.Option(help="What `tune --adapter` wrote.")],
    out: Out,
    as_lora: Annotated[
        bool, typer.Option("--as-lora", help="Write a LoRA for peft and vLLM, not a checkpoint.")
    ] = False,
    max_rank: Annotated[
        int, typer.Option(min=1, help="With --as-lora: the largest rank of a layer; vLLM's is 512.")
    ] = MAX_LORA_RANK,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    from neurorit.pipelines import method as body

    run(
        lambda: body.merge(model, adapter, out, overwrite, as_lora=as_lora, max_rank=max_rank),
        as_json,
    )
