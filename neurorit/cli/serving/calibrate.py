"""Choose the similarity below which a gateway does not answer (serve --min-score)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from neurorit.cli.options import IndexDir, Json, Overwrite, options_from, run
from neurorit.retrieval.settings import SearchSettings


@options_from(SearchSettings, "rerank", "fusion", "dense_weight", mode="--retriever")
def calibrate(
    index_dir: IndexDir,
    questions: Annotated[Path, typer.Option(help="Validation questions with their answers.")],
    abstain: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of questions not to be answered.")
    ] = None,
    risk: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Most answered ones whose passages lack the answer."),
    ] = None,
    held_out: Annotated[
        Path | None, typer.Option(help="Questions that it is not chosen on, to say what it gives.")
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Passages of each.")] = 5,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the report with the risk-coverage curve.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    **options: Any,
) -> None:
    from neurorit.pipelines.serving import calibrate as body

    def work() -> Mapping[str, Any]:
        return body.calibrate(
            index_dir,
            questions,
            abstain=abstain,
            risk=risk,
            held_out=held_out,
            top_k=top_k,
            settings=SearchSettings(**options),
            out=out,
            overwrite=overwrite,
        )

    run(work, as_json, body.show)
