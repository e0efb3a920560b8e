"""Memory and disk: what a process may still take, whether work fits, what autograd keeps, and what
is given back."""

from __future__ import annotations

import ctypes
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from neurorit.core.errors import BadInput

_GIB = 2**30
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
# Times the most that a process took so far: room for holes, to begin to keep them and to go on.
_ROOM, _STILL_ROOM = 0.8, 0.2


def free_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say."""
    import psutil

    try:
        return int(psutil.virtual_memory().available)
    except (OSError, psutil.Error):
        return None


@contextmanager
def kept_for_backward(model: Any) -> Iterator[Callable[[], int]]:
    """Counts what autograd keeps in the block, but for the model's weights.

    What it yields gives the bytes, of real tensors and of fake ones alike.
    """
    import torch

    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        yield lambda: sum(storage.nbytes() for storage in kept.values())


def give_back_freed() -> None:
    """Freed blocks of a mebibyte and more go back to the system, until `keep_freed`.

    glibc raises that bound to 32 MiB by itself: what one step frees then stays beside what the next
    one takes. Another C library keeps its ways.
    """
    _tell_malloc(from_system=2**20, trim=2**20)
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def keep_freed() -> None:
    """Freed blocks of less than 32 MiB stay for what comes next, which finds them warm."""
    _tell_malloc(from_system=32 * 2**20, trim=2**31 - 1)


@contextmanager
def giving_back() -> Iterator[None]:
    """Freed memory goes back as the block begins and ends, however it ends."""
    give_back_freed()
    try:
        yield
    finally:
        give_back_freed()


class FreedMemory:
    """Freed memory of work in steps: given back until there is room to keep it.

    What is given back the system clears anew, page by page, before it is taken again: from a
    twentieth of a step to half of it, by the machine. What is kept lies between what is used, so
    that a process takes up to 1.8 times as much.
    """

    def __init__(self) -> None:
        self.kept = False
        give_back_freed()

    def mind(self) -> None:
        """Look at the room there is, after a step."""
        room, most = free_memory(), most_resident()
        if room is None or most is None:
            return
        keep = room >= (_STILL_ROOM if self.kept else _ROOM) * most
        if keep != self.kept:
            self.kept = keep
            (keep_freed if keep else give_back_freed)()


def most_resident() -> int | None:
    """Bytes of memory that this process had at most; None where the system does not say."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _tell_malloc(*, from_system: int, trim: int) -> None:
    with suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, from_system)
        libc.mallopt(_M_TRIM_THRESHOLD, trim)


def check_room(what: str, out: Path, *, memory: int, disk: int, way_out: str) -> None:
    """Raise BadInput where `what` takes more bytes of memory, or of `out`'s disk, than is free."""
    free = free_memory()
    if free is not None and memory > free:
        raise BadInput(
            f"{what} takes about {memory / _GIB:.1f} GiB of memory, and {free / _GIB:.1f} GiB is "
            f"free; {way_out}, or close other programs"
        )
    place = Path(out).absolute()
    while not place.exists():
        place = place.parent
    room = shutil.disk_usage(place).free
    if disk > room:
        raise BadInput(
            f"{what} takes {disk / _GIB:.1f} GiB of disk, and {room / _GIB:.1f} GiB is free at "
            f"{place}; {way_out}, or name another disk with ‹out›"
        )
