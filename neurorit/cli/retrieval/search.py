"""Search an index: for one question, or for a file of them with recall and nDCG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from neurorit.cli.options import Json, options_from, parse_fields, run
from neurorit.core.settings import hints
from neurorit.retrieval.settings import SearchSettings


@options_from(SearchSettings, *hints(SearchSettings))
def search(
    index_dir: Annotated[Path, typer.Argument(metavar="INDEX", help="What `index` wrote.")],
    question: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    questions: Annotated[
        Path | None,
        typer.Option(help="JSONL of questions; recall, success, nDCG where `gold` ids are given."),
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Passages of each.")] = 5,
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", metavar="FIELD=VALUE", help="Of a passage's meta; repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSONL of all rankings to write.")] = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    from neurorit.pipelines import retrieval as body

    def work() -> Mapping[str, Any]:
        settings = SearchSettings(filters=parse_fields(filters, "--filter"), **options)
        return body.search(index_dir, question, questions, top_k, settings, out)

    run(work, as_json, show=body.show_hits)
