"""Published data sets in this project's form, and leaks between sets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from neurorit.cli.options import PLAIN, App, Examples, Json, Out, Overwrite, Seed, run

data_app = App(
    help=__doc__,
    **PLAIN,
)


@data_app.command("fetch")
def data_fetch(
    name: Annotated[
        str,
        typer.Argument(help="A data set, such as hotpotqa, squad, nq; or a form, with --source."),
    ],
    out: Out,
    source: Annotated[
        str | None,
        typer.Option(help="A hub name, a folder that `save_to_disk` wrote, or JSON lines."),
    ] = None,
    configuration: Annotated[
        str | None, typer.Option("--config", help="The configuration on the hub.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Of the data set: train, validation...")] = (
        None
    ),
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows.")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a published set's questions and passages, for `index` and `mix`."""
    from neurorit.pipelines import retrieval as body

    run(
        lambda: body.fetch(
            name,
            out,
            source=source,
            configuration=configuration,
            split=split,
            limit=limit,
            overwrite=overwrite,
        ),
        as_json,
    )


@data_app.command("leaks")
def data_leaks(
    train: Annotated[Path, typer.Option(help="Examples that are trained on.")],
    evaluation: Annotated[Path, typer.Option("--eval", help="Examples that are evaluated on.")],
    near: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Overlap of words of a near duplicate.")
    ] = 0.8,
    fail_over: Annotated[
        int | None, typer.Option(min=0, help="Exit 3 when more examples leak.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Which evaluation examples training has seen, by question and by gold passage."""
    from neurorit.pipelines import retrieval as body

    run(lambda: body.leaks(train, evaluation, near, fail_over), as_json)


@data_app.command("lm-eval")
def lm_eval(
    examples: Examples,
    out: Out,
    condition: Annotated[
        list[str] | None, typer.Option(help="A condition, such as distractor-2; repeatable.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first questions.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer at most.")] = 24,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write noisy-QA conditions as tasks for lm-evaluation-harness."""

    def work() -> Mapping[str, Any]:
        from neurorit.eval.conditions import CONDITIONS
        from neurorit.eval.lm_eval_harness import write_tasks

        return write_tasks(
            examples,
            condition or CONDITIONS,
            out,
            seed=seed,
            limit=limit,
            max_tokens=max_tokens,
            overwrite=overwrite,
        ) | {"next": f"lm_eval run --include_path {out} --tasks neurorit_noisy_qa"}

    run(work, as_json)
