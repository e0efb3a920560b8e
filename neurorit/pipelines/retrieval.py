"""index, mix and published data: passages and questions in, examples out."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurorit.core.errors import BadInput
from neurorit.pipelines.progress import Reporter, reporting
from neurorit.pipelines.recipe import Recipe, parse_assignments

if TYPE_CHECKING:
    from neurorit.retrieval.encoders.sparse import SparseEncoder
    from neurorit.retrieval.index.index import Index
    from neurorit.retrieval.retriever import SearchSettings

_SEARCHED = 256  # questions at once


def index(
    corpus: Path,
    out: Path,
    encoder: str,
    *,
    overwrite: bool,
    restart: bool = False,
    bm25: bool = False,
    sparse: str = "",
    plan: bool = False,
    ray: str | None = None,
    ray_gpus: float = 0.0,
    **options: Any,
) -> Mapping[str, Any]:
    """Build an index; returns where it is and what it holds.

    restart: throw away an unfinished build of something else; bm25: make its BM25 too; sparse: an
    encoder by which to make its sparse vectors too; plan: only say what it will take; ray: a
    cluster that encodes, with so many GPUs for each task; options: see
    `neurorit.retrieval.index.build.BuildSettings`.
    """
    from neurorit.retrieval.index.build import SKIPPED
    from neurorit.retrieval.index.estimate import plan_index
    from neurorit.retrieval.index.index import build_index
    from neurorit.retrieval.settings import BuildSettings

    settings = BuildSettings(**options)
    if plan:
        with reporting() as report:
            report.say("reading the corpus and timing the encoder")
            return plan_index(corpus, encoder, settings)

    with reporting() as report, contextlib.ExitStack() as stack:
        weights = _sparse_encoder(sparse, settings.batch_size)
        used: Any = encoder
        if ray is not None:
            from neurorit.retrieval.ray_cluster import ClusterEncoder, connected

            used = ClusterEncoder(
                stack.enter_context(connected(ray)),
                encoder,
                batch_size=settings.batch_size,
                gpus=ray_gpus,
            )
        built = build_index(
            corpus,
            out,
            encoder=used,
            settings=settings,
            overwrite=overwrite,
            restart=restart,
            progress=report.named("passages encoded"),
        )
        summary = dict(built.built)
        if bm25:
            from neurorit.retrieval.bm25.bm25 import LexicalIndex, lexical_place

            report.say("counting words for BM25")
            LexicalIndex.of(out, built.passages, built.digest, memory=settings.memory)
            summary["bm25"] = str(lexical_place(out))
        if weights is not None:
            summary |= _sparse(built, weights, report, restart)
    if summary.get("skipped"):
        summary["skipped_file"] = str(out / SKIPPED)
    return {"index": str(out), **summary}


def _sparse_encoder(name: str, batch_size: int) -> SparseEncoder | None:
    """Before anything is built, so that a bad name costs nothing; None without a name."""
    if not name:
        return None
    from neurorit.retrieval.encoders.sparse import SparseEncoder

    return SparseEncoder.load(name, batch_size=batch_size)


def _sparse(
    index: Index, encoder: SparseEncoder, report: Reporter, restart: bool = False
) -> dict[str, Any]:
    """Make the sparse vectors of an index; returns what was made."""
    from neurorit.retrieval.sparse.build import write_sparse

    assert index.directory is not None
    return write_sparse(
        index.directory,
        index.passages,
        index.digest,
        encoder,
        restart=restart,
        progress=report.named("passages encoded sparsely"),
    )


def update(
    directory: Path,
    add: Path | None,
    delete: Path | None,
    delete_where: Mapping[str, str],
    batch_size: int,
    *,
    compact: bool = False,
    sparse: str = "",
) -> Mapping[str, Any]:
    """Add passages to an index and delete some of it; returns what it then holds.

    compact: bring its segments together afterwards, without what was deleted; sparse: an encoder
    by which to make the sparse vectors of what is left.
    """
    from neurorit.retrieval.index.compact import compact_index
    from neurorit.retrieval.index.update import update_index

    made: dict[str, Any] = {}
    with reporting() as report:
        weights = _sparse_encoder(sparse, batch_size)
        if add is not None or delete is not None or delete_where or not (compact or sparse):
            made = update_index(
                directory,
                add=add,
                delete=delete,
                delete_where=delete_where,
                batch_size=batch_size,
                progress=report.named("passages encoded"),
            )
        if compact:
            made |= compact_index(
                directory, batch_size=batch_size, progress=report.named("passages moved")
            )
        if weights is not None:
            from neurorit.retrieval.index.index import Index

            # An unfinished one of what the index was before is of no use to anybody.
            made |= _sparse(Index.load(directory), weights, report, restart=True)
    return {"index": str(directory), **made}


def search(
    index: Path,
    question: str | None,
    questions: Path | None,
    top_k: int,
    settings: SearchSettings,
    out: Path | None,
) -> Mapping[str, Any]:
    """Search for one question, or for a file of them and measure against their gold passages."""
    from neurorit.core.atomic_files import write_text
    from neurorit.data.example_files import read_examples
    from neurorit.retrieval.ranking_metrics import ranking_figures
    from neurorit.retrieval.retriever import Retriever

    if (question is None) == (questions is None):
        raise BadInput("search: give a question, or ‹questions› FILE, and not both")
    unread: dict[str, int] = {}
    asked = []
    if questions is not None:
        asked = list(read_examples(questions, unanswered="all", left_out=unread))
    with reporting() as report:
        report.say("loading the index")
        retriever = Retriever.load(index, settings)
        if question is not None:
            hits = retriever.search([question], top_k)[0]
            return {"question": question, "passages": [_hit(hit) for hit in hits]}
        found: list[Any] = []
        deep = max(top_k, 10)
        for start in range(0, len(asked), _SEARCHED):
            found += retriever.search([e.question for e in asked[start : start + _SEARCHED]], deep)
            report("questions searched", len(found), len(asked))
    if out is not None:
        lines = [
            {"id": example.id, "passages": [_hit(hit) for hit in hits[:top_k]]}
            for example, hits in zip(asked, found, strict=True)
        ]
        write_text(out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    rankings = {
        example.id: [hit.passage.id for hit in hits]
        for example, hits in zip(asked, found, strict=True)
    }
    gold = {example.id: set(example.meta.get("gold") or ()) for example in asked}
    unknown = _unknown(gold, retriever.index)
    return {
        "mode": settings.mode,
        **ranking_figures(rankings, gold),
        **({"gold not in the index": unknown} if unknown else {}),
        **({"questions not read": dict(unread)} if unread else {}),
    }


def _unknown(gold: Mapping[str, Iterable[str]], index: Any) -> int:
    """How many gold ids name no passage; raises BadInput where none does: they are other ids."""
    named = {identity for ids in gold.values() for identity in ids}
    absent = sorted(identity for identity in named if identity not in index)
    if absent and not len(index):
        raise BadInput("the index holds no passage: all of them were deleted")
    if absent and len(absent) == len(named):
        raise BadInput(
            f"‹questions›: none of their {len(named)} gold ids is in the index, such as "
            f"{absent[0]!r}; its passages have ids such as {index.passages[0].id!r}"
        )
    return len(absent)


def show_hits(result: Mapping[str, Any]) -> None:
    """Print passages for a person; figures as they are."""
    if "passages" not in result:
        for name, value in result.items():
            print(f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}")
        return
    for hit in result["passages"]:
        found = ", ".join(f"{name} {rank}" for name, rank in hit["ranks"].items())
        print(f"{hit['rank']}. {hit['title']} [{hit['id']}] {hit['score']:.4f} ({found})")
        print(f"   {hit['text']}")


def _hit(hit: Any) -> dict[str, Any]:
    return {
        "rank": hit.rank,
        "id": hit.passage.id,
        "title": hit.passage.title,
        "text": hit.passage.text,
        "score": hit.score,
        "ranks": dict(hit.ranks),
    }


def mix(
    questions: Path,
    index_dir: Path,
    out: Path,
    recipe: Path | None,
    assignments: Iterable[str] | None,
    purpose: str,
    seed: int,
    overwrite: bool,
    only: Sequence[str] = (),
    variant: str = "",
    apart_from: Sequence[Path] = (),
) -> Mapping[str, Any]:
    """Mix examples to train on or to evaluate with; returns where they are and what is in them.

    variant: a variant of the recipe's section, such as reader. apart_from: examples of which
    nothing is drawn again.
    """
    from neurorit.retrieval.noise.mix import mix as mix_examples
    from neurorit.retrieval.noise.mixer import MixSettings, PoolSettings

    if purpose not in ("train", "eval"):
        raise BadInput(f"‹purpose={purpose}›: it is train or eval")
    kind, section = (MixSettings, "mix") if purpose == "train" else (PoolSettings, "mix-eval")
    settings = Recipe(recipe).settings(kind, section, parse_assignments(assignments or ()), variant)
    with reporting() as report:
        summary = mix_examples(
            questions,
            index_dir,
            settings,
            seed=seed,
            only=only,
            apart_from=apart_from,
            out=out,
            overwrite=overwrite,
            progress=report.named("questions mixed"),
        ).counts
        if seen := summary.get("questions_not_read", {}).get("seen"):
            wanted = f" of {settings.limit} asked for" if settings.limit else ""
            report.say(
                f"{seen} questions left out, which what is kept apart from has seen; "
                f"{summary['examples']} examples{wanted}"
            )
        for kind, count in summary.get("examples_short_of", {}).items():
            report.say(f"{count} of {summary['examples']} examples found too few {kind} passages")
    return {"examples": str(out), **summary}


def fetch(name: str, out: Path, **options: Any) -> Mapping[str, Any]:
    """Write a published data set as questions and a corpus; options: see `write_published`."""
    from neurorit.data.published import CORPUS, QUESTIONS, write_published

    with reporting() as report:
        made = write_published(name, out, progress=report.named("rows read"), **options)
    files = {"questions_file": str(out / QUESTIONS)}
    if made["passages"]:
        files["corpus"] = str(out / CORPUS)
    return {**files, **made}


def leaks(train: Path, evaluation: Path, near: float, most: int | None) -> Mapping[str, Any]:
    """What of the evaluation examples training has seen; raises GateMissed for more than `most`."""
    from dataclasses import asdict

    from neurorit.core.errors import GateMissed
    from neurorit.data.contamination import count_leaks, find_leaks
    from neurorit.data.example_files import examples_file, read_examples

    asked = list(read_examples(examples_file(evaluation), unanswered="all"))
    found = find_leaks(read_examples(examples_file(train), unanswered="all"), asked, near=near)
    counts = count_leaks(found)
    if most is not None and counts["examples"] > most:
        raise GateMissed(
            f"‹fail_over› missed: {counts['examples']} of {len(asked)} examples in {evaluation} "
            f"were seen in training, such as {found[0].id} (like {found[0].train})"
        )
    return {**counts, "of": len(asked), "leaks": [asdict(leak) for leak in found]}
