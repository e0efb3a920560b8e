"""Files and directories that are written whole or not at all: temporary name, sync, rename."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path


def own_mark() -> str:
    """What this process ends its temporary names with: its machine and its number."""
    return f"{_machine()}-{os.getpid()}"


def write_text(path: Path, text: str) -> None:
    """Write a file whole: temporary name, sync, rename."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.writing-{own_mark()}")
    with open(temporary, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def put_back(out: Path) -> None:
    """Bring back what a process was replacing when it was killed between its two renames."""
    if not out.exists():
        for former in abandoned(out, "replaced"):
            os.rename(former, out)
            return


def abandoned(out: Path, what: str) -> Iterator[Path]:
    """Directories beside `out` of that use whose process, of this machine, was killed."""
    before = f".{out.name}.{what}-"
    for path in sorted(out.parent.glob(f"{before}*")):
        machine, _, process = path.name.removeprefix(before).rpartition("-")
        # Whether another machine's process lives cannot be asked from here.
        here = machine in ("", _machine())
        if here and process.isdigit() and not _alive(int(process)):
            yield path


def _machine() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def swap_in(temporary: Path, out: Path) -> None:
    """Put the whole new directory in the place of the old one, at no moment without either."""
    if not out.exists():
        os.rename(temporary, out)
        return
    if _exchanged(temporary, out):
        shutil.rmtree(temporary, ignore_errors=True)
        return
    # This file system cannot exchange two names: `put_back` mends a kill between these two.
    aside = out.with_name(f".{out.name}.replaced-{own_mark()}")
    os.rename(out, aside)
    try:
        os.rename(temporary, out)
    except OSError:
        os.rename(aside, out)
        raise
    shutil.rmtree(aside, ignore_errors=True)


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
