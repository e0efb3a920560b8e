"""The folder in which something long is built: it survives a kill, and belongs to one at a time.

`build.json` in it says what it is for. What was made for something else is not thrown away unasked,
for it may be days of work.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neurorit.core.artifact import MANIFEST
from neurorit.core.atomic_files import write_text
from neurorit.core.errors import BadInput
from neurorit.core.locks import lock

RECORD = "build.json"
# Of what an unfinished build leaves (segments, their vectors, parts of a sparse index): raise it
# with every change of that, so that no version goes on with what another one began.
REVISION = 1


@contextlib.contextmanager
def workplace(place: Path, purpose: Mapping[str, Any], *, restart: bool = False) -> Iterator[Path]:
    """Hold the folder `place`, with what an interrupted build for the same purpose left there.

    purpose: what is built, by names that a person knows. restart: throw away what was made for
    another purpose, or by a version whose files have another form. Raises BadInput where that would
    be lost, or while another process works in the folder.
    """
    wanted = json.loads(json.dumps({"the form of its files": REVISION, **purpose}, default=str))
    descriptor = _locked(place)
    try:
        found = _record(place)
        if found != wanted:
            if not restart:
                _refuse_loss(place, found, wanted)
            _clear(place)
            write_text(place / RECORD, json.dumps(wanted))
        yield place
    finally:
        if place.is_dir() and not _holds_work(place):
            shutil.rmtree(place, ignore_errors=True)
        os.close(descriptor)


def _refuse_loss(place: Path, before: Any, wanted: Mapping[str, Any]) -> None:
    # An index that was replaced in the moment of a kill lies here whole: it was to be deleted.
    if not _holds_work(place) or (before is None and (place / MANIFEST).is_file()):
        return
    changed = "a version of this program that is no longer here"
    if isinstance(before, dict):
        names = [name for name in wanted if before.get(name) != wanted[name]]
        shown = [f"‹{name}›" if name.isidentifier() else name for name in names]
        changed = ", ".join(shown) or "other settings"
    raise BadInput(
        f"{place} holds an unfinished build that differs in: {changed}; run that command again to "
        "go on with it, or pass ‹restart=True› to throw it away"
    )


def _holds_work(place: Path) -> bool:
    return (place / "journal.json").is_file() or any(
        (found / name).is_file()
        for found in place.glob("segments/*")
        for name in ("progress.json", "vectors.faiss")
    )


def _record(place: Path) -> Any:
    try:
        return json.loads((place / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _clear(place: Path) -> None:
    for left in place.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def _locked(place: Path) -> int:
    """An open descriptor that holds the folder's lock until it is closed."""
    while True:
        place.mkdir(parents=True, exist_ok=True)
        # A build that ends at this moment renames the folder away: what is locked then is another's
        # index, or nothing any more.
        with contextlib.suppress(FileNotFoundError):
            busy = f"{place}: another process builds this index now"
            descriptor = lock(place, busy, folder=True)
            if place.is_dir() and os.stat(place).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
            os.close(descriptor)
