"""Options of `search`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from neurorit.cli.options import Json, parse_fields, run


def search(
    index_dir: Annotated[Path, typer.Argument(metavar="INDEX", help="What `index` wrote.")],
    question: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    questions: Annotated[
        Path | None,
        typer.Option(help="JSONL of questions; recall, success, nDCG where `gold` ids are given."),
    ] = None,
    mode: Annotated[str, typer.Option(help="dense, bm25 or hybrid.")] = "dense",
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Passages of each.")] = 5,
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", metavar="FIELD=VALUE", help="Of a passage's meta; repeatable."),
    ] = None,
    rerank: Annotated[str, typer.Option(help="A cross-encoder's folder or name.")] = "",
    fusion: Annotated[str, typer.Option(help="Of hybrid: by scores, or by ranks (RRF).")] = (
        "scores"
    ),
    dense_weight: Annotated[float, typer.Option(help="The dense part's share in hybrid.")] = 0.7,
    effort: Annotated[
        int, typer.Option(min=0, help="nprobe of ivf, efSearch of hnsw; 0: as tuned.")
    ] = 0,
    out: Annotated[Path | None, typer.Option(help="JSONL of all rankings to write.")] = None,
    as_json: Json = False,
) -> None:
    """Search an index: for one question, or for a file of them with recall and nDCG."""
    from neurorit.pipelines import retrieval as body

    def work() -> Mapping[str, Any]:
        from neurorit.retrieval.retriever import SearchSettings

        settings = SearchSettings(
            mode=mode,
            fusion=fusion,
            dense_weight=dense_weight,
            rerank=rerank,
            filters=parse_fields(filters, "--filter"),
            effort=effort,
        )
        return body.search(index_dir, question, questions, top_k, settings, out)

    run(work, as_json, show=body.show_hits)
