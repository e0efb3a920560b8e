"""Show a finished report again, as tables, against another run, or held to gates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neurorit.cli.options import GateInterval, Json, run


def report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN [OTHER]", help="Where `eval` or `demo` wrote; two: compare."),
    ] = None,
    samples: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="A B", help="Compare the sample files of lm-evaluation-harness or BERGEN."
        ),
    ] = None,
    cluster: Annotated[
        str, typer.Option(help="Field of --samples by which they are resampled together.")
    ] = "",
    table: Annotated[
        str | None, typer.Option("--format", help="md, csv or latex, to --out or stdout.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File for the --format.")] = None,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            metavar="robustness=0.80",
            help="Exit 3 when below (or above, with <=): MEASURE=, SYSTEM:MEASURE= or "
            "SYSTEM:CONDITION:METRIC=VALUE.",
        ),
    ] = None,
    gate_interval: GateInterval = False,
    power: Annotated[
        float | None, typer.Option(help="Questions needed to see such a difference: 0.05.")
    ] = None,
    as_json: Json = False,
) -> None:
    from neurorit.pipelines.evaluation import report as body

    if samples:
        if runs or table or fail_under:
            raise typer.BadParameter("--samples are compared alone; leave RUN and the rest out")
        run(
            lambda: body.compare_sample_files(*samples, cluster=cluster, power=power),
            as_json,
        )
        return
    runs = runs or []
    if table and not out:
        if as_json:
            raise typer.BadParameter("--json and --format both want stdout; give --out")
        body.show_report(runs, table, out, fail_under, power, by_interval=gate_interval)
        return
    run(
        lambda: body.show_report(runs, table, out, fail_under, power, by_interval=gate_interval),
        as_json,
    )
