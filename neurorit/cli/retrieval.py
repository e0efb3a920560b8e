"""Options of the commands that make an index and mix examples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from neurorit.cli.options import (
    PLAIN,
    Assign,
    IndexDir,
    Json,
    Out,
    Overwrite,
    RecipeFile,
    Seed,
    run,
)

data_app = typer.Typer(
    help="Published data sets in this project's form, and leaks between sets.",
    **PLAIN,
)


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
    memory: Annotated[str, typer.Option(help="What a build may take: 1GB, 512MB.")] = "4GB",
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
            memory=parse_bytes(memory, "--memory"),
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


def update(
    index_dir: Annotated[Path, typer.Argument(metavar="INDEX", help="What `index` wrote.")],
    add: Annotated[Path | None, typer.Option(help="A corpus to add.")] = None,
    delete: Annotated[
        Path | None, typer.Option(help="File with the ids to delete, one a line.")
    ] = None,
    delete_where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=VALUE",
            help="Delete what has this in its meta; given again, what has all of them.",
        ),
    ] = None,
    compact: Annotated[
        bool,
        typer.Option("--compact", help="Bring the segments together, without what was deleted."),
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Passages encoded at once.")] = 64,
    as_json: Json = False,
) -> None:
    """Add passages to an index and delete some of it, without a rebuild."""
    from neurorit.pipelines import retrieval as body

    def work() -> Mapping[str, Any]:
        where = _fields(delete_where, "--delete-where")
        return body.update(index_dir, add, delete, where, batch_size, compact=compact)

    run(work, as_json)


def search(
    index_dir: Annotated[Path, typer.Argument(metavar="INDEX", help="What `index` wrote.")],
    question: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    questions: Annotated[
        Path | None,
        typer.Option(help="JSONL of questions; recall and nDCG where `gold` ids are given."),
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
            filters=_fields(filters, "--filter"),
            effort=effort,
        )
        return body.search(index_dir, question, questions, top_k, settings, out)

    run(work, as_json, show=body.show_hits)


def mix(
    questions: Annotated[Path, typer.Argument(help='JSONL of {"id", "question", "answers"}.')],
    index_dir: IndexDir,
    out: Out,
    purpose: Annotated[
        str, typer.Option("--for", help="train, or eval: pools for every noise condition.")
    ] = "train",
    recipe: RecipeFile = None,
    settings: Assign = None,
    seed: Seed = 0,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Make this question's example alone; repeatable."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Mix questions with gold and noisy passages into typed examples."""
    from neurorit.pipelines import retrieval as body

    run(
        lambda: body.mix(
            questions, index_dir, out, recipe, settings, purpose, seed, overwrite, only or ()
        ),
        as_json,
    )


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


data_app.command("fetch")(data_fetch)
data_app.command("leaks")(data_leaks)


def _fields(given: list[str] | None, option: str) -> dict[str, str]:
    """Fields of meta and their values; raises BadInput naming the option."""
    from neurorit.core.errors import BadInput

    pairs = [one.partition("=") for one in given or ()]
    if any(not name or not equals for name, equals, _ in pairs):
        raise BadInput(f"{option}: write FIELD=VALUE")
    return {name: value for name, _, value in pairs}
