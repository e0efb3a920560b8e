"""Segments: the parts of an index, made one after the other in bounded memory.

A segment is a folder with passages and their FAISS index. Until it is whole it is called `.part`
and holds the vectors made so far. A journal says which segments are whole; what a kill left goes on
after the last vectors that are surely on disk.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from neurorit.core.atomic_files import sync, write_text
from neurorit.core.errors import BadInput
from neurorit.data.examples import Passage
from neurorit.retrieval.index.faiss_build import make_vectors
from neurorit.retrieval.index.faiss_kinds import usual_effort
from neurorit.retrieval.index.faiss_search import tune_effort
from neurorit.retrieval.index.passage_store import PASSAGES, passage_line, write_places
from neurorit.retrieval.settings import CHUNK

if TYPE_CHECKING:
    import numpy as np

VECTORS, SEGMENTS, JOURNAL = "vectors.faiss", "segments", "journal.json"
_RAW, _PROGRESS = "vectors.f32", "progress.json"
_SYNC_SECONDS = 5.0


@dataclass(frozen=True)
class Segment:
    """One finished segment: its folder's name, its passages, and how its search was tuned.

    kind: where it is another one than the index's.
    """

    name: str
    passages: int
    effort: int | None
    recall: float | None = None
    sample: int | None = None
    kind: str | None = None


class VectorSource(Protocol):
    """Where the vectors of passages come from."""

    dimension: int

    def vectors(self, start: int, texts: Iterator[list[str]]) -> Iterator[np.ndarray]:
        """float32 [n, d] for each list of n texts; `start` of all passages came before them."""
        ...


@dataclass(frozen=True)
class SegmentSettings:
    """How segments are made.

    kind: of each; size: passages of one, a multiple of CHUNK; target: recall@10 to tune to, None
    for not at all; queries: float32 [q, d] to tune with, None for vectors of the segment itself;
    rest: the kind of what is too small for `kind`, None where nothing is.
    """

    kind: str
    size: int
    target: float | None = None
    queries: Any = None
    rest: Callable[[int], str] | None = None


def make_segments(
    place: Path,
    passages: Iterator[Passage],
    total: int,
    source: VectorSource,
    settings: SegmentSettings,
    *,
    first: int = 0,
    moved: Path | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> list[Segment]:
    """Make the segments of `total` passages under `place`, going on where that was stopped.

    first: the number of the first segment; moved: where finished ones may have been moved to.
    """
    made = _journal(place, moved)
    done = sum(segment.passages for segment in made)
    passages = islice(passages, done, None)
    if progress is not None:
        progress(done, total)
    while done < total:
        folder = place / SEGMENTS / f"{first + len(made):05d}"
        count = _count(folder, total - done, settings.size, source.dimension)
        kind = settings.rest(count) if settings.rest is not None else settings.kind
        segment = _make(
            folder,
            passages,
            count,
            source,
            kind,
            settings,
            done,
            lambda now, before=done: progress and progress(before + now, total),  # type: ignore[misc]
        )
        made.append(segment)
        # The journal comes first: a kill before the renaming loses nothing, as `_journal` ends it.
        write_text(place / JOURNAL, json.dumps([asdict(one) for one in made]))
        _finish(folder)
        done += count
    return made


def passage_text(passage: Passage) -> str:
    """What is encoded of a passage: its title and its text."""
    return f"{passage.title}: {passage.text}" if passage.title else passage.text


def _make(
    folder: Path,
    passages: Iterator[Passage],
    count: int,
    source: VectorSource,
    kind: str,
    settings: SegmentSettings,
    start: int,
    note: Callable[[int], object],
) -> Segment:
    """All files of one segment, in its `.part`."""
    import faiss

    part = _part(folder)
    part.mkdir(parents=True, exist_ok=True)
    _fill(part, passages, count, source, start, note)
    raw, dimension = part / _RAW, source.dimension
    vectors = make_vectors(kind, raw, count, dimension)
    effort, recall, sample = usual_effort(kind, count), None, None
    if settings.target is not None:
        effort, recall, sample = tune_effort(
            vectors, kind, raw, count, dimension, settings.target, settings.queries
        )
    faiss.write_index(vectors, str(part / VECTORS))
    del vectors
    write_places(part)
    sync(part)
    own = None if kind == settings.kind else kind
    return Segment(folder.name, count, effort, recall, sample, own)


def _finish(folder: Path) -> None:
    """Give a segment whose files are whole its name."""
    part = _part(folder)
    for left in (part / _RAW, part / _PROGRESS):
        left.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(part, folder)


def _part(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.part")


def _journal(place: Path, moved: Path | None) -> list[Segment]:
    """The finished segments, as far as their files are there."""
    try:
        records = json.loads((place / JOURNAL).read_text(encoding="utf-8"))
        segments = [Segment(**record) for record in records]
    except (OSError, ValueError, TypeError):
        return []
    whole = []
    for segment in segments:
        folder = place / SEGMENTS / segment.name
        if not folder.is_dir() and (_part(folder) / VECTORS).is_file():
            _finish(folder)
        places = [folder] if moved is None else [folder, moved / SEGMENTS / segment.name]
        if not any((one / VECTORS).is_file() for one in places):
            break
        whole.append(segment)
    return whole


def _count(folder: Path, left: int, size: int, dimension: int) -> int:
    """Passages of the next segment.

    The last two share what is left, so that neither is too small to be trained. What an interrupted
    build with more memory left may be larger than `size`: then it is cut in two.
    """
    following = folder.with_name(f"{int(folder.name) + 1:05d}")
    made, _ = _progress(_part(folder), dimension)
    if made and _progress(_part(following), dimension)[0]:
        return made
    count = size if left >= 2 * size else min(size, -(-left // (2 * CHUNK)) * CHUNK)
    if left <= size or left - count < min(CHUNK, size) // 2:
        count = left
    if made > count:
        _cut(_part(folder), _part(following), made, count, dimension)
    return count


def _cut(part: Path, following: Path, made: int, count: int, dimension: int) -> None:
    """Move what a part holds beyond `count` passages to the following part."""
    shutil.rmtree(following, ignore_errors=True)
    following.mkdir()
    with open(part / PASSAGES, "rb") as lines, open(following / PASSAGES, "wb") as rest:
        for _ in range(count):
            lines.readline()
        text = lines.tell()
        for _ in range(made - count):
            rest.write(lines.readline())
        beyond = rest.tell()
    with open(part / _RAW, "rb") as rows, open(following / _RAW, "wb") as rest:
        rows.seek(count * dimension * 4)
        for _ in range(made - count):
            rest.write(rows.read(dimension * 4))
    sync(following)
    # In this order: what two parts both hold after a kill would stand in the index twice.
    _note(part, count, text)
    _note(following, made - count, beyond)


def _fill(
    part: Path,
    passages: Iterator[Passage],
    count: int,
    source: VectorSource,
    start: int,
    note: Callable[[int], object],
) -> None:
    """Bring passages and vectors to disk; `progress.json` says what surely is there."""
    made, text = _progress(part, source.dimension)
    for _ in islice(passages, made):
        pass
    note(made)
    taken: deque[Sequence[Passage]] = deque()

    def chunks() -> Iterator[list[str]]:
        for begin in range(made, count, CHUNK):
            wanted = min(CHUNK, count - begin)
            chunk = list(islice(passages, wanted))
            if len(chunk) < wanted:
                raise BadInput("the corpus changed while it was read; run the command again")
            taken.append(chunk)
            yield [passage_text(passage) for passage in chunk]

    with open(part / PASSAGES, "ab") as lines, open(part / _RAW, "ab") as raw:
        lines.truncate(text)
        raw.truncate(made * source.dimension * 4)
        synced, there = time.monotonic(), made
        for vectors in source.vectors(start + made, chunks()):
            chunk = taken.popleft()
            raw.write(vectors.astype("<f4", copy=False).tobytes())
            lines.writelines(passage_line(passage) for passage in chunk)
            there += len(chunk)
            note(there)
            if time.monotonic() - synced > _SYNC_SECONDS or there == count:
                for stream in (lines, raw):
                    stream.flush()
                    os.fsync(stream.fileno())
                _note(part, there, lines.tell())
                synced = time.monotonic()


def _note(part: Path, passages: int, text: int) -> None:
    write_text(part / _PROGRESS, json.dumps({"passages": passages, "text": text}))


def _progress(part: Path, dimension: int) -> tuple[int, int]:
    """(passages, bytes of text) that are surely on disk; (0, 0) when that cannot be told."""
    try:
        state = json.loads((part / _PROGRESS).read_text(encoding="utf-8"))
        made, text = int(state["passages"]), int(state["text"])
        enough = (part / PASSAGES).stat().st_size >= text
        if enough and (part / _RAW).stat().st_size >= made * dimension * 4:
            return made, text
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return 0, 0
