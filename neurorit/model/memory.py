"""Memory and disk: what a process may still take, whether work fits, what autograd keeps, and what
is given back."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from neurorit.core.errors import BadInput

_GIB = 2**30
_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h


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
    """Freed blocks of a mebibyte and more go back to the system, until this process ends.

    glibc raises that bound to 32 MiB by itself: what one step frees then stays beside what the next
    one takes. Another C library keeps its ways.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**20)


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
