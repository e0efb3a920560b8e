"""Adds passages to an index and deletes some of it, without a rebuild.

What is added becomes a segment of its own; what is deleted is noted and never found again. The
manifest is replaced last: until then, and after a crash, the index is as it was, and the same
update goes on from where it stopped. `index.compact` brings the segments together again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from neurorit.core.artifact import Manifest, hash_file, manifest_digest, write_manifest
from neurorit.core.atomic_files import sync
from neurorit.core.build_dir import workplace
from neurorit.core.errors import BadInput
from neurorit.data.examples import Passage
from neurorit.data.formats.text_files import read_text
from neurorit.retrieval.corpus.chunking import Chunking
from neurorit.retrieval.corpus.reader import Skipped, corpus_digest, placed_passages
from neurorit.retrieval.index.build import LISTED, Progress, held
from neurorit.retrieval.index.faiss_kinds import kind_of_addition
from neurorit.retrieval.index.index import DELETED, Index, read_deleted, read_index_manifest
from neurorit.retrieval.index.segments import SEGMENTS, SegmentSettings, make_segments
from neurorit.retrieval.index.vector_sources import EncodedVectors
from neurorit.retrieval.settings import BuildSettings

_UNDER_WAY = ".update"


def update_index(
    directory: Path,
    *,
    add: Path | None = None,
    delete: Path | None = None,
    delete_where: Mapping[str, str] | None = None,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Delete the passages whose ids `delete` lists (one a line), then add those of a corpus.

    delete_where: fields of `meta` and their values, of passages to delete as well. Raises BadInput,
    and changes nothing, for a line that cannot be read, an id or a value that is not there, or a
    new passage whose id is in use.
    """
    directory = Path(directory)
    if add is None and delete is None and not delete_where:
        raise BadInput("update: give ‹add›, ‹delete›, ‹delete_where› or ‹compact›")
    with held(directory):
        return _update(directory, add, delete, delete_where or {}, batch_size, progress)


def settings_of(manifest: Manifest, batch_size: int = 64) -> BuildSettings:
    """The settings that an index was built with, as far as more of it is made by them."""
    return BuildSettings(
        kind=manifest.settings["kind"],
        memory=manifest.settings["memory"],
        target=manifest.settings.get("target_recall"),
        chunking=Chunking(**manifest.settings["chunking"]),
        batch_size=batch_size,
    )


def _update(
    directory: Path,
    add: Path | None,
    delete: Path | None,
    delete_where: Mapping[str, str],
    batch_size: int,
    progress: Progress | None,
) -> dict[str, Any]:
    manifest = read_index_manifest(directory)
    index = Index.load(directory, verify=False, batch_size=batch_size)
    gone, leaving = _leaving(directory, manifest, index, delete, delete_where)
    segments = [dict(record) for record in manifest.made["segments"]]
    files = dict(manifest.files)
    added = 0
    place = directory / _UNDER_WAY
    skipped = Skipped(lenient=False)
    if add is not None:
        made, added = _added(
            directory, place, manifest, index, add, leaving, batch_size, progress, skipped
        )
        segments += made
        for record in made:
            for path in sorted((directory / SEGMENTS / record["name"]).iterdir()):
                files[path.relative_to(directory).as_posix()] = hash_file(path)
    before = manifest.made.get(DELETED)
    after = before
    if leaving:
        after = _write_deleted(directory, before, gone)
        files.pop(str(before), None)
        files[after] = hash_file(directory / after)
    sync(directory)
    left = len(index) - len(leaving) + added
    facts = {**manifest.made, "passages": left, "segments": segments, DELETED: after}
    write_manifest(directory, replace(manifest, made=facts), files)
    if after != before and before:
        (directory / str(before)).unlink(missing_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    return {
        "passages": left,
        "added": added,
        "deleted": len(leaving),
        "segments": len(segments),
        **({"skipped": len(skipped), "skipped_items": list(skipped)[:LISTED]} if skipped else {}),
    }


def _leaving(
    directory: Path,
    manifest: Manifest,
    index: Index,
    delete: Path | None,
    delete_where: Mapping[str, str],
) -> tuple[dict[str, set[int]], set[str]]:
    """(segment's name -> all its rows that will be deleted, ids that are deleted now)."""
    names = [str(record["name"]) for record in manifest.made["segments"]]
    gone = {name: set(rows.tolist()) for name, rows in read_deleted(directory, manifest).items()}
    leaving = set()
    for identity, where in (_ids(delete) if delete is not None else {}).items():
        found = index.passages.find(identity)
        if found is None:
            raise BadInput(f"{where}: the index has no passage {identity!r}")
        gone.setdefault(names[found[0]], set()).add(found[1])
        leaving.add(identity)
    if delete_where:
        matching = index.passages.matching(delete_where)
        if not matching:
            wanted = ", ".join(f"{name}={value}" for name, value in delete_where.items())
            raise BadInput(f"‹delete_where›: no passage has {wanted} in its meta")
        leaving |= {index.passages[row].id for row in index.passages.rows_of(matching).tolist()}
        for number, rows in matching.items():
            gone.setdefault(names[number], set()).update(rows.tolist())
    return gone, leaving


def _added(
    directory: Path,
    place: Path,
    manifest: Manifest,
    index: Index,
    add: Path,
    leaving: set[str],
    batch_size: int,
    progress: Progress | None,
    skipped: Skipped,
) -> tuple[list[dict[str, Any]], int]:
    """(records of the new segments, which are in their places, passages in them)."""
    settings = settings_of(manifest, batch_size)
    total = sum(1 for _ in _new(add, settings.chunking, index, leaving, skipped))
    purpose = {
        "the index": manifest_digest(manifest),
        "add": corpus_digest(add),
        "delete": sorted(leaving),
    }
    # The index is whole without it: an update that was killed and is not wanted any more may go.
    with workplace(place, purpose, restart=True):
        made = make_segments(
            place,
            _new(add, settings.chunking, index, leaving, skipped),
            total,
            EncodedVectors(index.encoder),
            SegmentSettings(
                settings.kind,
                settings.segment(index.encoder.dimension),
                settings.target,
                rest=partial(kind_of_addition, settings.kind),
            ),
            first=1 + max(int(record["name"]) for record in manifest.made["segments"]),
            moved=directory,
            progress=progress,
        )
        for segment in made:
            new = place / SEGMENTS / segment.name
            if new.is_dir():
                # What a killed update left under that name belongs to nothing.
                shutil.rmtree(directory / SEGMENTS / segment.name, ignore_errors=True)
                os.rename(new, directory / SEGMENTS / segment.name)
    return [asdict(segment) for segment in made], total


def _write_deleted(directory: Path, before: object, gone: Mapping[str, set[int]]) -> str:
    import numpy as np

    turn = int(str(before or "deleted-0.npz").rpartition("-")[2].partition(".")[0]) + 1
    name = f"deleted-{turn}.npz"
    rows = {segment: np.array(sorted(held), dtype=np.int64) for segment, held in gone.items()}
    np.savez(directory / name, **rows)  # type: ignore[arg-type]
    return name


def _new(
    corpus: Path, chunking: Chunking, index: Index, leaving: set[str], skipped: Skipped
) -> Iterator[Passage]:
    """The passages to add; raises BadInput for one that the index will still hold."""
    for passage, place in placed_passages(corpus, chunking=chunking, skipped=skipped):
        if passage.id in index and passage.id not in leaving:
            raise BadInput(
                f"{place}: the index has a passage {passage.id!r} already; delete that one too, "
                "to put this one in its place"
            )
        yield passage


def _ids(path: Path) -> dict[str, str]:
    """Id -> where it stands."""
    found: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip():
            found.setdefault(line.strip(), f"{path}:{number}")
    return found
