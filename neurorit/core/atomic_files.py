"""Files and directories that are written whole or not at all: temporary name, sync, rename."""

from __future__ import annotations

import contextlib
import ctypes
import glob
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from neurorit.core.errors import BadInput
from neurorit.core.locks import lock

UNFINISHED = ".*.writing-*"  # what killed processes leave


def write_text(path: Path, text: str) -> None:
    """Write a file whole: temporary name, sync, rename."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _named(path, "writing")
    try:
        with open(temporary, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def directory_beside(out: Path) -> Iterator[Path]:
    """A new directory beside `out`; what the block leaves of it goes.

    Those that killed processes left go first. One that is in use is locked, by a process of
    whatever container; where the file system takes no locks none is taken away.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    for left in beside(out, "writing"):
        held = _locked(left)
        if held is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(held)
    made, held = _made(out)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        if held is not None:
            os.close(held)


def followed(out: Path) -> Path:
    """What a link stands for, so that not the link is replaced; any other path as it is."""
    return Path(os.path.realpath(out)) if out.is_symlink() else out


def put_back(out: Path) -> None:
    """Bring back what a process was replacing when it was killed between its two renames.

    What has been replaced is cleared away.
    """
    left = list(beside(out, "replaced"))
    if out.exists():
        # Looked for in this order: what is being replaced at this moment is not among them.
        for former in left:
            shutil.rmtree(former, ignore_errors=True)
    elif left:
        with contextlib.suppress(FileNotFoundError):  # its process lives and has gone on
            os.rename(left[0], out)


def beside(out: Path, what: str) -> Iterator[Path]:
    """Directories beside `out` of that use, `writing` or `replaced`."""
    yield from sorted(out.parent.glob(f"{glob.escape(f'.{out.name}.{what}-')}*"))


def swap_in(temporary: Path, out: Path) -> None:
    """Put the whole new directory in the place of the old one, at no moment without either."""
    if not out.exists():
        os.rename(temporary, out)
        return
    if _exchanged(temporary, out):
        shutil.rmtree(temporary, ignore_errors=True)
        return
    # This file system cannot exchange two names: `put_back` mends a kill between these two.
    while True:
        aside = _named(out, "replaced")
        os.rename(out, aside)
        try:
            os.rename(temporary, out)
            break
        except OSError:
            if aside.exists():
                os.rename(aside, out)
                raise
            # Another process has put it back.
    shutil.rmtree(aside, ignore_errors=True)


def _named(out: Path, what: str) -> Path:
    """A name beside `out` that nobody has: a number of a process is another's in a container."""
    return out.with_name(f".{out.name}.{what}-{secrets.token_hex(4)}")


def _made(out: Path) -> tuple[Path, int | None]:
    """A new directory beside `out`, and the descriptor that holds its lock."""
    while True:
        made = _named(out, "writing")
        made.mkdir()
        held = _locked(made, waiting=lambda: None)
        if made.is_dir():
            return made, held
        # It was cleared away before it was locked.
        if held is not None:
            os.close(held)


def _locked(directory: Path, waiting: Callable[[], None] | None = None) -> int | None:
    """As `locks.lock`; None where another one holds it, or none can."""
    with contextlib.suppress(BadInput, OSError):
        return lock(directory, "", folder=True, waiting=waiting)
    return None


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system cannot."""
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def sync(directory: Path) -> None:
    """Bring a directory with all its files to disk."""
    for path in [*directory.rglob("*"), directory]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
