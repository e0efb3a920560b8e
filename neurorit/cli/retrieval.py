"""Options of the commands that make an index and mix examples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurorit.cli.options import (
    PLAIN,
    Assign,
    IndexDir,
    Json,
    Out,
    Overwrite,
    RecipeFile,
    Seed,
    run,
)

data_app = typer.Typer(
    help="Published data sets in this project's form.",
    callback=lambda: None,  # one command, but still a group
    **PLAIN,
)


def index(
    corpus: Annotated[Path, typer.Argument(help='JSONL of {"id", "title", "text"}.')],
    out: Out,
    encoder: Annotated[str, typer.Option(help="minilm, a folder, or a Hugging Face name.")] = (
        "minilm"
    ),
    batch_size: Annotated[int, typer.Option(min=1, help="Passages encoded at once.")] = 64,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Build a FAISS index over a corpus."""
    from neurorit.commands import retrieval as body

    run(lambda: body.index(corpus, out, encoder, batch_size, overwrite), as_json)


def mix(
    questions: Annotated[Path, typer.Argument(help='JSONL of {"id", "question", "answers"}.')],
    index_dir: IndexDir,
    out: Out,
    purpose: Annotated[
        str, typer.Option("--for", help="train, or eval: pools for every noise condition.")
    ] = "train",
    recipe: RecipeFile = None,
    settings: Assign = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Mix questions with gold and noisy passages into typed examples."""
    from neurorit.commands import retrieval as body

    run(
        lambda: body.mix(questions, index_dir, out, recipe, settings, purpose, seed, overwrite),
        as_json,
    )


def data_hotpotqa(
    out: Out,
    source: Annotated[
        str, typer.Option(help="The hub's name, or a folder that `save_to_disk` wrote.")
    ] = "hotpotqa/hotpot_qa",
    split: Annotated[str, typer.Option(help="train or validation.")] = "train",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first questions.")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write HotpotQA's passages and questions, for `index` and `mix`."""
    from neurorit.commands import retrieval as body

    run(lambda: body.hotpotqa(out, source, split, limit, overwrite), as_json)


data_app.command("hotpotqa")(data_hotpotqa)
