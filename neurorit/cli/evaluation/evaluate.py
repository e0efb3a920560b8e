"""Options of `eval`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from neurorit.cli.options import GateInterval, Json, Out, run


def evaluate(
    out: Out,
    config: Annotated[
        str | None, typer.Option(help="YAML file with all of it, or a packaged one: demo.")
    ] = None,
    system: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PLACE",
            help="A checkpoint's directory, URL/v1#MODEL or gateway+URL; repeatable.",
        ),
    ] = None,
    examples: Annotated[
        list[str] | None,
        typer.Option(help="What `mix` wrote or a JSONL file; NAME=PATH for several; repeatable."),
    ] = None,
    condition: Annotated[
        list[str] | None, typer.Option(help="A condition, such as distractor-2@last; repeatable.")
    ] = None,
    index_dir: Annotated[
        str | None, typer.Option("--index", help="Retrieve from it: the condition retrieved-K.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Passages that the index gives (5).")
    ] = None,
    retriever: Annotated[
        str | None, typer.Option(help="How the index is searched: dense, bm25 or hybrid.")
    ] = None,
    rerank: Annotated[str | None, typer.Option(help="A cross-encoder's folder or name.")] = None,
    judge: Annotated[
        str | None, typer.Option(help="lab, none, a judge's folder, or URL/v1#MODEL.")
    ] = None,
    judge_labels: Annotated[
        str | None, typer.Option(help="Labelled answers (JSONL) that say how far to trust it.")
    ] = None,
    judge_key: Annotated[
        str | None,
        typer.Option(metavar="VARIABLE", help="Environment variable with the judge's key."),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VARIABLE", help="Environment variable with a system's key."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="So many questions, drawn by the seed.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="em, match, f1 or parts: what comparisons rest on (em).")
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A system to compare all others with; repeatable."),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="FIELD", help="Resample questions by it: a field of their meta."),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of an answer at most (24).")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Checkpoints compute in it: auto, stored, float32, bfloat16.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random (0).")] = None,
    max_unscored: Annotated[
        float | None, typer.Option(help="Share of answers without a verdict that is borne (0.02).")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Calls to a server at the same time (8).")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Directory of answers and verdicts that runs share.")
    ] = None,
    root: Annotated[
        str | None, typer.Option(help="Where relative paths start (else the file's root, or here).")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Count calls, tokens and time; ask nothing.")] = (
        False
    ),
    seconds_per_call: Annotated[
        float | None, typer.Option(min=0, help="For --dry-run, when no run was timed.")
    ] = None,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SYSTEM:CONDITION:METRIC=VALUE",
            help="Exit 3 when below, or above for METRIC<=VALUE; repeatable.",
        ),
    ] = None,
    gate_interval: GateInterval = False,
    as_json: Json = False,
) -> None:
    """Answer questions under noise with each system; write report.json and report.html."""

    def work() -> Mapping[str, Any]:
        from neurorit.pipelines.evaluation import command as body
        from neurorit.pipelines.evaluation import settings

        chosen = settings.EvalSettings.read(
            config,
            {
                "systems": settings.systems_of_options(system, key),
                "data": settings.data_of_options(examples),
                "conditions": tuple(condition) if condition else None,
                "retriever": settings.retriever_of_options(index_dir, top_k, retriever, rerank),
                "judge": judge,
                "judge_labels": judge_labels,
                "judge_key": judge_key,
                "calls": {"concurrency": concurrency} if concurrency else None,
                "limit": limit,
                "metric": metric,
                "compare": tuple(compare) if compare else None,
                "cluster": cluster,
                "max_tokens": max_tokens,
                "dtype": dtype,
                "seed": seed,
                "max_unscored": max_unscored,
                "root": root,
            },
        )
        return body.evaluate_settings(
            chosen,
            out,
            fail_under,
            cache=cache,
            dry_run=dry_run,
            seconds_per_call=seconds_per_call,
            by_interval=gate_interval,
        )

    def show(result: Mapping[str, Any]) -> None:
        from neurorit.pipelines.evaluation import command as body

        body.show_estimate(result)

    run(work, as_json, show=show if dry_run else None)
