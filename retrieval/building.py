"""Builds an index: a corpus in, segments out, in bounded memory, and again from where it stopped.

An index is a list of segments, each with its passages and its FAISS index, each as large as the
memory allows. Vectors go to disk as they are made; a build that was stopped or killed goes on after
the last ones that are surely there, and ends with the same files. It knows nothing of searching.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.artifact import Manifest, seal, sync, write_text
from retrieval.chunking import Chunking
from retrieval.corpus import Skipped, corpus_digest, read_corpus
from retrieval.duplicates import Survey, survey, without
from retrieval.encoder import DEFAULT, Encoder, load_encoder
from retrieval.errors import BadInput
from retrieval.examples import Passage
from retrieval.kinds import (
    KNOBS,
    bytes_per_vector,
    check_kind,
    make_vectors,
    tune_effort,
    usual_effort,
)
from retrieval.lengths import count_overlong
from retrieval.passages import PASSAGES, passage_line, write_places
from retrieval.vectors import GivenVectors

if TYPE_CHECKING:
    import numpy as np

VECTORS = "vectors.faiss"
SEGMENTS = "segments"
MEMORY = 4 * 2**30
REPEATS = "duplicates.jsonl"
SKIPPED = "skipped.txt"
_RAW = "vectors.f32"
_CHUNK = 1024
_SYNC_SECONDS = 5.0
# Of the memory, what a segment's vectors may take; the rest is the encoder's and the text's.
_SHARE = 0.3

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class BuildSettings:
    """How an index is built.

    kind: one of `retrieval.kinds.KINDS`; memory: bytes that a build should not exceed; target:
    recall@10 against exact search that a search is tuned to (None: not tuned); vectors: .npy file
    with a row for each passage, in place of encoding; chunking: of documents and records;
    near_duplicates: the overlap from which passages are near duplicates (0: only the same ones are
    told); drop_duplicates: leave the later ones out; skip_bad: leave out what cannot be read, and
    list it; batch_size: passages encoded at once; threads: of
    FAISS (0: its own choice).
    """

    kind: str = "flat"
    memory: int = MEMORY
    target: float | None = None
    vectors: Path | None = None
    chunking: Chunking = field(default_factory=Chunking)
    near_duplicates: float = 0.0
    drop_duplicates: bool = False
    skip_bad: bool = False
    batch_size: int = 64
    threads: int = 0

    def segment(self, dimension: int) -> int:
        """Passages of a segment: whole chunks, so that always the same ones go together."""
        room = int(self.memory * _SHARE) // bytes_per_vector(self.kind, dimension)
        return max(_CHUNK, room // _CHUNK * _CHUNK)


@dataclass(frozen=True)
class Segment:
    """One finished segment: its folder's name, its passages, and how its search was tuned."""

    name: str
    passages: int
    effort: int | None
    recall: float | None = None
    sample: int | None = None


def build_index(
    corpus: Path,
    out: Path,
    *,
    encoder: str | Encoder = DEFAULT,
    settings: BuildSettings | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Encode a corpus into an index artifact at `out`; returns counts.

    encoder: a name, or one that is loaded already; with given vectors it encodes the queries. A
    build with the same corpus and settings that was stopped goes on from where it was.
    Raises BadInput for a corpus that cannot be read; then nothing is left at `out`.
    """
    settings = settings or BuildSettings()
    out = Path(out)
    if out.exists() and not overwrite:
        raise BadInput(f"{out} exists already; name another --out or pass --overwrite")
    if settings.drop_duplicates and settings.vectors:
        raise BadInput("--drop-duplicates: the rows of --vectors would belong to other passages")
    if settings.skip_bad and settings.vectors:
        raise BadInput("--skip-bad: the rows of --vectors would belong to other passages")
    # A first pass over the text alone finds every bad line before any time goes into vectors.
    skipped = Skipped() if settings.skip_bad else None
    read = partial(read_corpus, corpus, chunking=settings.chunking, skipped=skipped)
    seen = survey(read, settings.near_duplicates)
    dropped = seen.repeats if settings.drop_duplicates else ()
    total = seen.passages - len(dropped)
    model = (
        load_encoder(encoder, batch_size=settings.batch_size)
        if isinstance(encoder, str)
        else encoder
    )
    given = GivenVectors(settings.vectors, total, model.dimension) if settings.vectors else None
    check_kind(settings.kind, total, model.dimension)
    cut = None if given else count_overlong(model, (passage_text(p) for p in read()))
    size = settings.segment(model.dimension)
    _set_threads(settings.threads)
    described = asdict(settings) | {"vectors": given.digest if given else None}
    inputs = {"corpus": corpus_digest(corpus)}
    key = _key(inputs, described, model.fingerprint)
    with workplace(out.with_name(f".{out.name}.building"), key) as place:
        segments: list[Segment] = _journal(place)
        done = sum(segment.passages for segment in segments)
        passages = islice(without(read(), dropped), done, None)
        while done < total:
            # The rest goes into this segment where a last one would be too small to be trained.
            count = total - done if total - done < size * 3 // 2 else size
            segments.append(
                make_segment(
                    place / SEGMENTS / f"{len(segments):05d}",
                    passages,
                    count,
                    given.take if given else model.encode_passages,
                    model.dimension,
                    settings,
                    lambda made, before=done: progress and progress(before + made, total),  # type: ignore[misc]
                    lambda made, before=done: given.seek(before + made) if given else None,  # type: ignore[misc]
                )
            )
            done += count
            write_text(place / "journal.json", json.dumps([asdict(s) for s in segments]))
        manifest = Manifest(
            kind="index",
            command="neurorit-rag index",
            settings={
                "encoder": model.name,
                "kind": settings.kind,
                "chunking": asdict(settings.chunking),
                "near_duplicates": settings.near_duplicates,
                "drop_duplicates": settings.drop_duplicates,
                "memory": settings.memory,
                "target_recall": settings.target,
            },
            inputs=inputs,
            made={
                "passages": total,
                "dimension": model.dimension,
                "fingerprint": model.fingerprint,
                "segments": [asdict(segment) for segment in segments],
            },
        )
        if seen.repeats:
            _write_repeats(place / REPEATS, seen)
        if skipped:
            write_text(place / SKIPPED, "".join(f"{one}\n" for one in skipped))
        for name in ("journal.json", "key"):
            (place / name).unlink(missing_ok=True)
        seal(place, manifest, out)
    cut = getattr(model, "truncated", 0) or cut
    return {
        "passages": total,
        "dimension": model.dimension,
        "encoder": model.name,
        "kind": settings.kind,
        "segments": len(segments),
        "duplicates": seen.exact,
        **({"near_duplicates": len(seen.repeats) - seen.exact} if settings.near_duplicates else {}),
        **({"dropped": len(dropped)} if settings.drop_duplicates else {}),
        **({"skipped": len(skipped)} if skipped is not None else {}),
        **({"longer_than_encoder": cut} if cut is not None else {}),
        **_tuned(segments, settings),
    }


def make_segment(
    place: Path,
    passages: Iterator[Passage],
    count: int,
    encode: Callable[[Sequence[str]], np.ndarray],
    dimension: int,
    settings: BuildSettings,
    note: Callable[[int], object],
    begin: Callable[[int], object] = lambda made: None,
) -> Segment:
    """Write one segment of the next `count` passages at `place`, going on where one was stopped.

    begin: is told once how many of them are there already, note: how many there are now.
    """
    part = place.with_name(f"{place.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    _fill(part, passages, count, encode, dimension, note, begin)
    raw = part / _RAW
    vectors = make_vectors(settings.kind, raw, count, dimension)
    effort, recall, sample = usual_effort(settings.kind, count), None, None
    if settings.target is not None:
        effort, recall, sample = tune_effort(
            vectors, settings.kind, raw, count, dimension, settings.target
        )
    write_vectors(vectors, part / VECTORS)
    write_places(part)
    for left in (raw, part / "progress.json"):
        left.unlink(missing_ok=True)
    sync(part)
    shutil.rmtree(place, ignore_errors=True)
    os.rename(part, place)
    return Segment(place.name, count, effort, recall, sample)


def write_vectors(vectors: Any, path: Path) -> None:
    """Write a FAISS index to a file."""
    import faiss

    faiss.write_index(vectors, str(path))


def passage_text(passage: Passage) -> str:
    """What is encoded of a passage: its title and its text."""
    return f"{passage.title}: {passage.text}" if passage.title else passage.text


@contextlib.contextmanager
def workplace(place: Path, key: str) -> Iterator[Path]:
    """A folder that survives a crash and belongs to one build at a time.

    What another corpus or other settings left there is thrown away. Raises BadInput while another
    process works in it.
    """
    lock = _locked(place)
    try:
        mark = place / "key"
        if not mark.is_file() or mark.read_text(encoding="utf-8") != key:
            for left in place.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            write_text(mark, key)
        yield place
    finally:
        if place.is_dir() and not (place / SEGMENTS).is_dir():
            shutil.rmtree(place, ignore_errors=True)
        os.close(lock)


def _locked(place: Path) -> int:
    """An open descriptor that holds the folder's lock until it is closed."""
    while True:
        place.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(place, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A build that ended in between renamed the folder away: this one is another's index.
            if place.is_dir() and os.stat(place).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except OSError as error:
            os.close(descriptor)
            raise BadInput(f"{place}: another process builds this index now") from error
        os.close(descriptor)


def _fill(
    part: Path,
    passages: Iterator[Passage],
    count: int,
    encode: Callable[[Sequence[str]], np.ndarray],
    dimension: int,
    note: Callable[[int], object],
    begin: Callable[[int], object],
) -> None:
    """Bring passages and vectors to disk; `progress.json` says what surely is there."""
    made, text = _progress(part, dimension)
    for _ in islice(passages, made):
        pass
    begin(made)
    note(made)
    with open(part / PASSAGES, "ab") as lines, open(part / _RAW, "ab") as raw:
        lines.truncate(text)
        raw.truncate(made * dimension * 4)
        synced = time.monotonic()
        while made < count:
            chunk = list(islice(passages, min(_CHUNK, count - made)))
            if not chunk:
                raise BadInput("the corpus changed while it was read; run the command again")
            vectors = encode([passage_text(passage) for passage in chunk])
            raw.write(vectors.astype("<f4", copy=False).tobytes())
            lines.writelines(passage_line(passage) for passage in chunk)
            made += len(chunk)
            note(made)
            if time.monotonic() - synced > _SYNC_SECONDS or made == count:
                for stream in (lines, raw):
                    stream.flush()
                    os.fsync(stream.fileno())
                state = {"passages": made, "text": lines.tell()}
                write_text(part / "progress.json", json.dumps(state))
                synced = time.monotonic()


def _progress(part: Path, dimension: int) -> tuple[int, int]:
    """(passages, bytes of text) that are surely on disk; (0, 0) when that cannot be told."""
    try:
        state = json.loads((part / "progress.json").read_text(encoding="utf-8"))
        made, text = int(state["passages"]), int(state["text"])
        enough = (part / PASSAGES).stat().st_size >= text
        if enough and (part / _RAW).stat().st_size >= made * dimension * 4:
            return made, text
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return 0, 0


def _journal(place: Path) -> list[Segment]:
    """The finished segments, as far as their files are there."""
    try:
        records = json.loads((place / "journal.json").read_text(encoding="utf-8"))
        segments = [Segment(**record) for record in records]
    except (OSError, ValueError, TypeError):
        return []
    whole = []
    for segment in segments:
        if not (place / SEGMENTS / segment.name / VECTORS).is_file():
            break
        whole.append(segment)
    return whole


def _write_repeats(path: Path, seen: Survey) -> None:
    lines = [json.dumps(asdict(one), ensure_ascii=False) for one in seen.repeats]
    path.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass"))


def _key(inputs: Any, described: Any, fingerprint: str) -> str:
    text = json.dumps([inputs, described, fingerprint], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _tuned(segments: Sequence[Segment], settings: BuildSettings) -> dict[str, Any]:
    """What was found for the target recall."""
    if settings.target is None:
        return {}
    least = min(segment.recall or 0.0 for segment in segments)
    found: dict[str, Any] = {"recall_at_10": least, "reached": least >= settings.target}
    if settings.kind in KNOBS:
        found[KNOBS[settings.kind]] = max(segment.effort or 1 for segment in segments)
    return found


def _set_threads(threads: int) -> None:
    if threads:
        import faiss

        faiss.omp_set_num_threads(threads)
