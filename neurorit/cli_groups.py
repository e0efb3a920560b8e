"""Groups of commands that most users need less often: `atlas`, `data` and `lab`.

Like `neurorit.cli` it holds options only; bodies are imported when a command runs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from neurorit.options import PLAIN, Examples, Json, Model, Out, Overwrite, Seed, run

atlas_app = typer.Typer(help="Look at mined neurons, compare and check them.", **PLAIN)
data_app = typer.Typer(
    help="Published data sets in this project's form.",
    callback=lambda: None,  # one command, but still a group
    **PLAIN,
)
lab_app = typer.Typer(help="The embedded world and its models.", **PLAIN)


def atlas_show(
    atlas: Annotated[Path, typer.Argument(help="What `mine` wrote.")], as_json: Json = False
) -> None:
    """Counts, layers and residual of an atlas."""
    from neurorit.commands import atlas as body

    run(lambda: body.describe(atlas), as_json)


def atlas_plot(
    atlas: Annotated[Path, typer.Argument(help="What `mine` wrote.")],
    out: Annotated[Path, typer.Option(help="Picture to write, .svg or .png.")],
    as_json: Json = False,
) -> None:
    """Draw how the neurons lie over the layers."""
    from neurorit.commands import atlas as body

    run(lambda: body.draw(atlas, out), as_json)


def atlas_compare(
    atlas: Annotated[Path, typer.Argument(help="What `mine` wrote.")],
    other: Annotated[Path, typer.Argument(help="Another atlas of the same model.")],
    as_json: Json = False,
) -> None:
    """How far two atlases agree: Jaccard of the sets, rank correlation of the scores."""
    from neurorit.commands import atlas as body

    run(lambda: body.compare(atlas, other), as_json)


def atlas_verify(
    atlas: Annotated[Path, typer.Argument(help="What `mine` wrote.")],
    model: Model,
    examples: Examples,
    samples: Annotated[int, typer.Option(min=2, help="Contexts of each side.")] = 200,
    draws: Annotated[int, typer.Option(min=1, help="Sets of random neurons.")] = 3,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Silence the neurons, without training, and measure what changes against controls."""
    from neurorit.commands import atlas as body

    run(lambda: body.verify(atlas, model, examples, samples, draws, seed), as_json)


def lab_world(
    out: Out,
    seed: Seed = 0,
    test: Annotated[int, typer.Option(min=1, help="People (and questions) for tests.")] = 600,
    as_json: Json = False,
) -> None:
    """Write the invented world: a corpus, and questions of three splits."""
    from neurorit.commands import lab

    run(lambda: lab.world(out, seed, test), as_json)


def lab_train(
    out: Annotated[Path, typer.Option(help="Directory to write; goes on from what is there.")],
    seed: Seed = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    as_json: Json = False,
) -> None:
    """Train the lab's base model from scratch."""
    from neurorit.commands import lab

    run(lambda: lab.train(out, seed, device), as_json)


def lab_judge(
    out: Out,
    reading: Annotated[Path, typer.Option(help="The reading model that `lab train` wrote.")],
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train the lab's judge from the reading model."""
    from neurorit.commands import lab

    run(lambda: lab.judge(out, reading, seed), as_json)


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
    from neurorit.commands import pipeline

    run(lambda: pipeline.hotpotqa(out, source, split, limit, overwrite), as_json)


ATLAS_COMMANDS: dict[str, Callable[..., None]] = {
    "show": atlas_show,
    "plot": atlas_plot,
    "compare": atlas_compare,
    "verify": atlas_verify,
}
LAB_COMMANDS: dict[str, Callable[..., None]] = {
    "world": lab_world,
    "train": lab_train,
    "judge": lab_judge,
}
DATA_COMMANDS: dict[str, Callable[..., None]] = {"hotpotqa": data_hotpotqa}
for _app, _table in (
    (atlas_app, ATLAS_COMMANDS),
    (lab_app, LAB_COMMANDS),
    (data_app, DATA_COMMANDS),
):
    for _name, _command in _table.items():
        _app.command(_name)(_command)
