"""Adds passages to an index and deletes some of it, without a rebuild.

What is added becomes a segment of its own; what is deleted is noted and never found again. The
manifest is replaced last: until then, and after a crash, the index is as it was.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from retrieval.artifact import hash_file, sync, write_manifest
from retrieval.building import SEGMENTS, BuildSettings, Progress, make_segment
from retrieval.chunking import Chunking
from retrieval.corpus import placed_passages
from retrieval.errors import BadInput
from retrieval.examples import Passage
from retrieval.index import DELETED, Index, read_deleted, read_index_manifest
from retrieval.kinds import check_kind


def update_index(
    directory: Path,
    *,
    add: Path | None = None,
    delete: Path | None = None,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Delete the passages whose ids `delete` lists (one a line), then add those of a corpus.

    Raises BadInput, and changes nothing, for a line that cannot be read, an id that is not there,
    or a new passage whose id is in use.
    """
    directory = Path(directory)
    if add is None and delete is None:
        raise BadInput("update: give --add CORPUS, --delete FILE, or both")
    lock = os.open(directory, os.O_RDONLY) if directory.is_dir() else None
    try:
        if lock is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise BadInput(f"{directory}: another process updates it now") from error
        return _update(directory, add, delete, batch_size, progress)
    finally:
        if lock is not None:
            os.close(lock)


def _update(
    directory: Path,
    add: Path | None,
    delete: Path | None,
    batch_size: int,
    progress: Progress | None,
) -> dict[str, Any]:
    import numpy as np

    manifest = read_index_manifest(directory)
    index = Index.load(directory, verify=False)
    segments = [dict(record) for record in manifest.made["segments"]]
    names = [record["name"] for record in segments]
    gone = {name: set(rows.tolist()) for name, rows in read_deleted(directory, manifest).items()}
    leaving = _ids(delete) if delete is not None else {}
    for identity, where in leaving.items():
        found = index.passages.find(identity)
        if found is None:
            raise BadInput(f"{where}: the index has no passage {identity!r}")
        gone.setdefault(names[found[0]], set()).add(found[1])
    settings = BuildSettings(
        kind=str(manifest.settings["kind"]),
        memory=int(manifest.settings["memory"]),
        target=manifest.settings.get("target_recall"),
        chunking=Chunking(**manifest.settings["chunking"]),
        batch_size=batch_size,
    )
    files = dict(manifest.files)
    added = 0
    if add is not None:
        total = sum(1 for _ in _new(add, settings.chunking, index, leaving))
        check_kind(settings.kind, total, index.encoder.dimension)
        size = settings.segment(index.encoder.dimension)
        passages = _new(add, settings.chunking, index, leaving)
        number = 1 + max(int(name) for name in names)
        while added < total:
            count = total - added if total - added < size * 3 // 2 else size
            # What a killed update left under that name is of unknown making.
            place = directory / SEGMENTS / f"{number:05d}"
            shutil.rmtree(place.with_name(f"{place.name}.part"), ignore_errors=True)
            made = make_segment(
                place,
                passages,
                count,
                index.encoder.encode_passages,
                index.encoder.dimension,
                settings,
                lambda done, before=added: progress and progress(before + done, total),  # type: ignore[misc]
            )
            segments.append(asdict(made))
            for path in sorted(place.iterdir()):
                files[path.relative_to(directory).as_posix()] = hash_file(path)
            added += count
            number += 1
    before = manifest.made.get(DELETED)
    after = before
    if leaving:
        turn = int(str(before or "deleted-0.npz").rpartition("-")[2].partition(".")[0]) + 1
        after = f"deleted-{turn}.npz"
        rows = {name: np.array(sorted(held), dtype=np.int64) for name, held in gone.items()}
        np.savez(directory / after, **rows)  # type: ignore[arg-type]
        files.pop(str(before), None)
        files[after] = hash_file(directory / after)
    sync(directory)
    left = len(index) - len(leaving) + added
    facts = {**manifest.made, "passages": left, "segments": segments, DELETED: after}
    write_manifest(directory, replace(manifest, made=facts), files)
    if after != before and before:
        (directory / str(before)).unlink(missing_ok=True)
    return {"passages": left, "added": added, "deleted": len(leaving), "segments": len(segments)}


def _new(
    corpus: Path, chunking: Chunking, index: Index, leaving: dict[str, str]
) -> Iterator[Passage]:
    """The passages to add; raises BadInput for one that the index will still hold."""
    for passage, place in placed_passages(corpus, chunking=chunking):
        if passage.id in index and passage.id not in leaving:
            raise BadInput(
                f"{place}: the index has a passage {passage.id!r} already; delete that one too, "
                "to put this one in its place"
            )
        yield passage


def _ids(path: Path) -> dict[str, str]:
    """Id -> where it stands."""
    try:
        lines: Sequence[str] = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read: {error}") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            found.setdefault(line.strip(), f"{path}:{number}")
    return found
