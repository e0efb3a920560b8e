"""Options of `index`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from neurorit.cli.options import Json, Out, Overwrite, run


def index(
    corpus: Annotated[
        Path,
        typer.Argument(help="JSONL, TSV, Parquet, hf:NAME, or a folder: of these, of documents."),
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
    batch_size: Annotated[int, typer.Option(min=1, help="Passages encoded at once.")] = 64,
    chunk_by: Annotated[
        str | None, typer.Option(help="How texts are cut: whole sentences, words or tokens.")
    ] = None,
    chunk_size: Annotated[
        int | None,
        typer.Option(help="Words or tokens of a chunk; 100. Given, it is for records too."),
    ] = None,
    overlap: Annotated[
        int, typer.Option(help="Words or tokens that a chunk shares with the one before.")
    ] = 0,
    tokenizer: Annotated[
        str, typer.Option(help="Whose tokens: a folder or hub name; minilm's without.")
    ] = "",
    language: Annotated[
        str, typer.Option(help="Of BM25's stems and stop words: english, german ... or none.")
    ] = "english",
    skip_bad: Annotated[
        bool, typer.Option(help="Leave out lines and files that cannot be read, and list them.")
    ] = False,
    near_duplicates: Annotated[
        float,
        typer.Option(help="Find passages that overlap by this share: 0.9. 0: same ones only."),
    ] = 0.0,
    drop_duplicates: Annotated[
        bool, typer.Option(help="Leave out passages that repeat an earlier one.")
    ] = False,
    kind: Annotated[str, typer.Option(help="flat (exact), hnsw, ivf, ivf-pq or sq8.")] = "flat",
    target_recall: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Tune the search to this recall@10: 0.98."),
    ] = None,
    recall_queries: Annotated[
        Path | None,
        typer.Option(help="JSONL of questions to tune with; without, passages of the index."),
    ] = None,
    bm25: Annotated[
        bool, typer.Option("--bm25", help="Count words for BM25 and hybrid search now.")
    ] = False,
    memory: Annotated[str, typer.Option(help="What a build may take: 512MB, 2GiB.")] = "4GB",
    threads: Annotated[int, typer.Option(min=0, help="Of FAISS; 0: its own choice.")] = 0,
    vectors: Annotated[
        Path | None,
        typer.Option(help="A .npy file with a row for each passage, in place of encoding."),
    ] = None,
    trust_vectors: Annotated[
        bool,
        typer.Option("--trust-vectors", help="Take --vectors that are unlike the encoder's."),
    ] = False,
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
) -> None:
    """Build a FAISS index over a corpus; the same command goes on with one that was stopped."""
    from neurorit.pipelines import retrieval as body

    def work() -> Mapping[str, Any]:
        from neurorit.core.units import parse_bytes
        from neurorit.retrieval.corpus.chunking import By, Chunking
        from neurorit.retrieval.encoders.load import prefixed_name

        return body.index(
            corpus,
            out,
            prefixed_name(encoder, query_prefix, passage_prefix),
            overwrite=overwrite,
            restart=restart,
            bm25=bm25,
            plan=plan,
            ray=ray,
            ray_gpus=ray_gpus,
            kind=kind,
            memory=parse_bytes(memory, "--memory", least=64 * 10**6),
            target=target_recall,
            recall_queries=recall_queries,
            vectors=vectors,
            trust_vectors=trust_vectors,
            chunking=Chunking(
                cast(By, chunk_by or "sentences"),
                100 if chunk_size is None else chunk_size,
                overlap,
                tokenizer,
                records=chunk_by is not None or chunk_size is not None,
            ),
            near_duplicates=near_duplicates,
            drop_duplicates=drop_duplicates,
            skip_bad=skip_bad,
            language=language,
            batch_size=batch_size,
            threads=threads,
        )

    run(work, as_json)
