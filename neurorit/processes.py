"""Leaving a group of processes that torchrun or accelerate started.

A group that is still up when Python ends may abort the process after its work is done.
"""

from __future__ import annotations

import atexit
from functools import cache


@cache
def leave_at_exit() -> None:
    """Leave the process group, if there is one then, when Python ends; asked for once or often."""
    atexit.register(_leave)


def _leave() -> None:
    import torch.distributed as distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
