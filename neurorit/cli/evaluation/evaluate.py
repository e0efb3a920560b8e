"""Answer questions under noise with each system; write report.json and report.html."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from neurorit.cli.options import GateInterval, Json, Out, given, option, options_from, run
from neurorit.core.endpoint.call_settings import CallSettings
from neurorit.pipelines.evaluation.settings import EvalSettings, JudgeSettings, RetrieverSettings

_RETRIEVER = ("index", "k", "mode", "rerank")


@options_from(CallSettings, "concurrency", file=True)
@options_from(JudgeSettings, labels="--judge-labels", key="--judge-key", file=True)
@options_from(
    RetrieverSettings, "rerank", index="--index", k="--top-k", mode="--retriever", file=True
)
@options_from(
    EvalSettings,
    *("limit", "metric", "cluster", "max_tokens", "thinking_tokens", "dtype"),
    *("seed", "max_unscored", "root"),
    conditions="--condition",
    file=True,
)
def evaluate(
    out: Out,
    config: Annotated[
        str | None, typer.Option(help="YAML file with all of it, or a packaged one: demo.")
    ] = None,
    systems: Annotated[
        list[str] | None,
        typer.Option(
            "--system",
            metavar="NAME=PLACE",
            help="A checkpoint's directory, URL/v1#MODEL or gateway+URL; repeatable.",
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--examples",
            help="What `mix` wrote or a JSONL file; NAME=PATH for several; repeatable.",
        ),
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="lab, none, a judge's folder, or URL/v1#MODEL.")
    ] = None,
    keys: Annotated[
        list[str] | None,
        typer.Option(
            "--key", metavar="NAME=VARIABLE", help="Environment variable with a system's key."
        ),
    ] = None,
    retention: Annotated[
        bool, typer.Option("--retention", help="Measure what checkpoints keep of their base.")
    ] = False,
    retention_text: Annotated[
        str | None, typer.Option(help="Text that nothing was tuned on: JSONL, paragraphs, or lab.")
    ] = None,
    retention_examples: Annotated[
        str | None, typer.Option(help="Examples of another domain, or lab.")
    ] = None,
    lm_eval: Annotated[
        str | None,
        typer.Option(
            metavar="TASK,TASK", help="Tasks of lm-evaluation-harness as parts of retention."
        ),
    ] = None,
    lm_eval_folder: Annotated[
        str | None, typer.Option(help="Folder of such tasks of your own.")
    ] = None,
    compare: Annotated[list[str] | None, option(EvalSettings, "compare", metavar="NAME")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Directory of answers and verdicts that runs share.")
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
    **options: Any,
) -> None:

    def work() -> Mapping[str, Any]:
        from neurorit.pipelines.evaluation import command as body
        from neurorit.pipelines.evaluation import settings

        retriever = given({name: options.pop(name) for name in _RETRIEVER})
        calls = given({"concurrency": options.pop("concurrency")})
        chosen = settings.EvalSettings.read(
            config,
            {
                "systems": settings.systems_of_options(systems, keys),
                "data": settings.data_of_options(data),
                "retriever": retriever or None,
                "retention": settings.retention_of_options(
                    retention, retention_text, retention_examples, lm_eval, lm_eval_folder
                ),
                "judge": judge,
                "judge_labels": options.pop("labels"),
                "judge_key": options.pop("key"),
                "calls": calls or None,
                "compare": compare,
                **options,
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
