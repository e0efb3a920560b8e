"""One process at a time in a file or folder; the lock ends with the process, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from neurorit.core.errors import BadInput


@contextmanager
def locked(place: Path, busy: str, *, folder: bool = False) -> Iterator[None]:
    """Hold a file, which is made where it is missing, or a folder, for the block.

    Raises BadInput: `busy` where another one holds it, or why it cannot be locked at all.
    """
    descriptor = lock(place, busy, folder=folder)
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def waited_for(place: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """As `locked`, of a file; where another one holds it, `waiting` is called and it is waited.

    For what is only better done alone: on a file system without locks nothing is held.
    """
    try:
        descriptor = lock(place, "", waiting=waiting)
    except BadInput:
        descriptor = None
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def lock(
    place: Path, busy: str, *, folder: bool = False, waiting: Callable[[], None] | None = None
) -> int:
    """As `locked`, until the descriptor that it returns is closed.

    waiting: called before another one's end is waited for; None: it is not.
    """
    how = os.O_RDONLY | os.O_DIRECTORY if folder else os.O_RDWR | os.O_CREAT
    descriptor = os.open(place, how, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is None:
                raise
            waiting()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise BadInput(busy) from error
        raise BadInput(
            f"{place}: its file system takes no locks ({error.strerror}); name a place elsewhere"
        ) from error
    return descriptor
