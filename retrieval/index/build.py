"""Builds an index: a corpus in, segments out, in bounded memory, and again from where it stopped.

An index is a list of segments, each with its passages and its FAISS index, each as large as the
memory allows (see `index.segments`). A build that was stopped or killed goes on after the last
vectors that are surely there, and ends with the same files.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from neurorit.core.artifact import Manifest, check_place, hash_file, seal
from neurorit.core.atomic_files import followed, put_back, write_text
from neurorit.core.build_dir import RECORD, workplace
from neurorit.core.locks import locked
from neurorit.data.example_files import read_examples
from neurorit.retrieval.bm25.words import check_language
from neurorit.retrieval.corpus.near_duplicates import Survey, survey, without
from neurorit.retrieval.corpus.reader import Corpus, Skipped, corpus_digest, read_corpus
from neurorit.retrieval.encoders.base import Encoder, described
from neurorit.retrieval.encoders.load import DEFAULT, load_encoder
from neurorit.retrieval.encoders.truncation import count_overlong
from neurorit.retrieval.index.faiss_kinds import KNOBS, check_kind
from neurorit.retrieval.index.segments import (
    JOURNAL,
    Segment,
    SegmentSettings,
    VectorSource,
    make_segments,
    passage_text,
)
from neurorit.retrieval.index.vector_sources import EncodedVectors, GivenVectors
from neurorit.retrieval.settings import BuildSettings

REPEATS = "duplicates.jsonl"
SKIPPED = "skipped.txt"
_COMPARED = 16  # passages whose given vectors are compared with the encoder's
LEFT_OUT = "mend it, or leave out and list what is bad with ‹skip_bad=True›"
LISTED = 100  # of what gave no passage, in the result; the file lists all
_ASKED = 1_000  # questions of a file that a search is tuned with

Progress = Callable[[int, int], None]


def write_index(
    corpus: Corpus,
    out: Path,
    *,
    encoder: str | Encoder = DEFAULT,
    settings: BuildSettings | None = None,
    overwrite: bool = False,
    restart: bool = False,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], Encoder]:
    """Encode a corpus into an index artifact at `out`; returns counts, and the encoder.

    encoder: a name, or one that is loaded already; with given vectors it encodes the queries. A
    build of the same that was stopped goes on from where it was, with another batch size, memory or
    number of threads too; restart: throw away one of something else. Raises BadInput for a corpus
    that cannot be read, for an unfinished build of something else, where the index that is to be
    replaced is being updated, and for what is no artifact, which is not replaced.
    """
    settings = settings or BuildSettings()
    check_language(settings.language)
    out = followed(Path(out))
    put_back(out)
    check_place(out, overwrite)
    with held(out), _threads(settings.threads):
        return _written(corpus, out, encoder, settings, overwrite, restart, progress)


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Keep others from changing an index; raises BadInput while one is under way."""
    if not directory.is_dir():
        yield  # reading its manifest says what is wrong
        return
    with locked(directory, f"{directory}: another process changes it now", folder=True):
        yield


def _written(
    corpus: Corpus,
    out: Path,
    encoder: str | Encoder,
    settings: BuildSettings,
    overwrite: bool,
    restart: bool,
    progress: Progress | None,
) -> tuple[dict[str, Any], Encoder]:
    # A first pass over the text alone finds every bad line before any time goes into vectors.
    skipped = Skipped(settings.skip_bad, LEFT_OUT)
    read = partial(read_corpus, corpus, chunking=settings.chunking, skipped=skipped)
    seen = survey(read, settings.near_duplicates)
    share = skipped.share
    dropped = seen.repeats if settings.drop_duplicates else ()
    total = seen.passages - len(dropped)
    model = (
        load_encoder(encoder, batch_size=settings.batch_size)
        if isinstance(encoder, str)
        else encoder
    )
    given = GivenVectors(settings.vectors, total, model.dimension) if settings.vectors else None
    check_kind(settings.kind, total, model.dimension)
    inputs = {"corpus": corpus_digest(corpus)}
    if given is not None:
        inputs["vectors"] = given.digest
    if settings.recall_queries is not None:
        inputs["recall_queries"] = hash_file(settings.recall_queries)
    with workplace(
        out.with_name(f".{out.name}.building"),
        _purpose(settings, inputs, model.fingerprint),
        restart=restart,
    ) as place:
        cut = None if given else count_overlong(model, (passage_text(p) for p in read()))
        likeness = None
        if given is not None and not settings.trust_vectors:
            texts = [passage_text(passage) for passage in islice(read(), _COMPARED)]
            likeness = given.check(model, texts)
        source: VectorSource = given if given is not None else EncodedVectors(model)
        segments = make_segments(
            place,
            without(read(), dropped),
            total,
            source,
            SegmentSettings(
                settings.kind,
                settings.segment(model.dimension),
                settings.target,
                _queries(settings.recall_queries, model),
            ),
            progress=progress,
        )
        manifest = Manifest(
            kind="index",
            command="neurorit-rag index",
            settings={
                "encoder": model.name,
                "kind": settings.kind,
                "chunking": asdict(settings.chunking),
                "near_duplicates": settings.near_duplicates,
                "drop_duplicates": settings.drop_duplicates,
                "language": settings.language,
                "memory": settings.memory,
                "target_recall": settings.target,
            },
            inputs=inputs,
            made={
                "passages": total,
                "dimension": model.dimension,
                "fingerprint": model.fingerprint,
                "encoder": described(model),
                **({"vectors": "given", "likeness": likeness} if given is not None else {}),
                "segments": [asdict(segment) for segment in segments],
            },
        )
        if seen.repeats:
            _write_repeats(place / REPEATS, seen)
        if len(skipped):
            write_text(place / SKIPPED, "".join(f"{one}\n" for one in skipped))
        publish(place, manifest, out, overwrite=overwrite)
    cut = getattr(model, "truncated", 0) or cut
    counts = {
        "passages": total,
        "dimension": model.dimension,
        "encoder": model.name,
        "kind": settings.kind,
        "segments": len(segments),
        "duplicates": seen.exact,
        **({"near_duplicates": len(seen.repeats) - seen.exact} if settings.near_duplicates else {}),
        **({"dropped": len(dropped)} if settings.drop_duplicates else {}),
        "share_of_input": share,
        "skipped": len(skipped),
        "skipped_items": list(islice(skipped, LISTED)),
        **({"longer_than_encoder": cut} if cut is not None else {}),
        **({"likeness": likeness} if likeness is not None else {}),
        **_tuned(segments, settings),
    }
    return counts, model


def publish(place: Path, manifest: Manifest, out: Path, *, overwrite: bool) -> None:
    """Make a workplace whose segments are whole the index at `out`.

    What lets a build go on stays until all is in its place: hashing takes minutes. Raises BadInput
    as `check_place` does.
    """
    check_place(out, overwrite, "was written by another process meanwhile")
    for name in (RECORD, JOURNAL):
        # Of an index whose build was killed in its last moment; it is about to be a workplace.
        (out / name).unlink(missing_ok=True)
    seal(place, manifest, out, leave=(RECORD, JOURNAL))
    for name in (RECORD, JOURNAL):
        (out / name).unlink(missing_ok=True)


def _purpose(
    settings: BuildSettings, inputs: dict[str, str], fingerprint: str
) -> dict[str, object]:
    """What makes a build another one, by the names that a person knows."""
    return {
        "the corpus": inputs["corpus"],
        "encoder": fingerprint,
        "kind": settings.kind,
        "target": settings.target,
        "recall_queries": inputs.get("recall_queries"),
        "vectors": inputs.get("vectors"),
        "how texts are cut": asdict(settings.chunking),
        "near_duplicates": settings.near_duplicates,
        "drop_duplicates": settings.drop_duplicates,
        "skip_bad": settings.skip_bad,
    }


def _queries(path: Path | None, encoder: Encoder) -> Any:
    """float32 [q, d] of a file's questions, spread over it where it has many; None without one."""
    if path is None:
        return None
    asked = [example.question for example in read_examples(path, unanswered="all")]
    step = -(-len(asked) // _ASKED)
    return encoder.encode_queries(asked[::step])


def _write_repeats(path: Path, seen: Survey) -> None:
    lines = [json.dumps(asdict(one), ensure_ascii=False) for one in seen.repeats]
    path.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass"))


def _tuned(segments: Sequence[Segment], settings: BuildSettings) -> dict[str, Any]:
    """What was found for the target recall."""
    if settings.target is None:
        return {}
    least = min(segment.recall or 0.0 for segment in segments)
    found: dict[str, Any] = {"recall_at_10": least, "reached": least >= settings.target}
    if settings.kind in KNOBS:
        found[KNOBS[settings.kind]] = max(segment.effort or 1 for segment in segments)
    return found


@contextlib.contextmanager
def _threads(most: int) -> Iterator[None]:
    """Let FAISS take so many threads; 0 leaves it as it is."""
    if not most:
        yield
        return
    import faiss

    former = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(most)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(former)
