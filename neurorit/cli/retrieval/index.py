"""Build a FAISS index over a corpus; the same command goes on with one that was stopped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from neurorit.cli.options import Json, Out, Overwrite, given, options_from, run
from neurorit.core.settings import hints
from neurorit.retrieval.corpus.chunking import Chunking
from neurorit.retrieval.settings import BuildSettings


@options_from(BuildSettings, *hints(BuildSettings), target="--target-recall")
@options_from(Chunking, "overlap", "tokenizer", file=True, by="--chunk-by", size="--chunk-size")
def index(
    corpus: Annotated[
        Path,
        typer.Argument(help="JSONL, JSON, CSV, Parquet, a document, a folder of any, or hf:NAME."),
    ],
    out: Out,
    encoder: Annotated[
        str,
        typer.Option(help="minilm, minilm+int8, a folder, a hub name, or ADDRESS/v1#MODEL."),
    ] = "minilm",
    query_prefix: Annotated[
        str, typer.Option(help="Words before a query, where the encoder wants some.")
    ] = "",
    passage_prefix: Annotated[str, typer.Option(help="Words before a passage.")] = "",
    encoder_request: Annotated[
        str,
        typer.Option(
            metavar="JSON", help="Further fields of requests to an address; null leaves one out."
        ),
    ] = "",
    bm25: Annotated[
        bool, typer.Option("--bm25", help="Count words for BM25 and hybrid search now.")
    ] = False,
    sparse: Annotated[
        str, typer.Option(help="A sparse encoder (SPLADE), a folder or hub name, to search by too.")
    ] = "",
    plan: Annotated[bool, typer.Option(help="Only say what memory, disk and time it takes.")] = (
        False
    ),
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Encode on a Ray cluster: an address, auto or local."),
    ] = None,
    ray_gpus: Annotated[
        float, typer.Option(min=0.0, help="GPUs of each task on the cluster, such as 1 or 0.5.")
    ] = 0.0,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Throw away an unfinished build with other settings."),
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    **options: Any,
) -> None:
    from neurorit.pipelines import retrieval as body

    def work() -> Mapping[str, Any]:
        from neurorit.retrieval.encoders.load import prefixed_name

        cut = given({name: options.pop(name) for name in ("by", "size", "overlap", "tokenizer")})
        return body.index(
            corpus,
            out,
            prefixed_name(encoder, query_prefix, passage_prefix, encoder_request),
            overwrite=overwrite,
            restart=restart,
            bm25=bm25,
            sparse=sparse,
            plan=plan,
            ray=ray,
            ray_gpus=ray_gpus,
            chunking=Chunking(**cut, records="by" in cut or "size" in cut),
            **given(options),
        )

    run(work, as_json)
