"""Where a function works that was given no place to write to."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path


@contextmanager
def work_folder(
    out: str | PathLike[str] | None, name: str, journal: str
) -> Iterator[tuple[Path, Path]]:
    """A temporary folder, and `out`, or `name` in that folder where there is none.

    It goes afterwards; but work that failed or was stopped without `out` stays, where a file of the
    form `journal` holds some, and the error's note says where.
    """
    folder = Path(tempfile.mkdtemp(prefix="neurorit-"))
    place = folder / name if out is None else Path(out)
    try:
        yield folder, place
    except BaseException as error:
        if out is None and any(path.stat().st_size for path in folder.rglob(journal)):
            error.add_note(f"what was done is kept: give out={str(place)!r} to go on")
        else:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
