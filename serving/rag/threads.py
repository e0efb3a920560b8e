"""Threads that search and render beside the event loop, and leave the cores to the model.

On a CPU the model's engine computes on the cores that the gateway runs on, and every request waits
for it. What encodes a query there costs the engine more than its own time: so it takes few threads,
none that waits busily, and goes second where there is no free core.
"""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from neurorit.core.cores import usable_cores

_NICE = 5  # a third of the engine's share of a core that both want


def search_threads() -> int:
    """Threads that one search may compute with: many for a few short queries only wait."""
    return max(1, usable_cores() // 4)


def few_threads() -> None:
    """Bound torch, which encodes, to `search_threads`; and hand the interpreter over quickly."""
    import torch

    torch.set_num_threads(search_threads())
    # A thread that computes hands the interpreter over after 0.5 ms, not 5: requests do not wait.
    sys.setswitchinterval(0.0005)


def one_thread(name: str) -> ThreadPoolExecutor:
    """One thread for work that the event loop must not do; it gives way to the model's engine.

    Libraries that are loaded when its first work comes compute with `search_threads`.
    """
    return ThreadPoolExecutor(
        1, thread_name_prefix=name, initializer=partial(_give_way, search_threads())
    )


def _give_way(threads: int) -> None:
    from threadpoolctl import threadpool_limits

    # OpenMP counts threads for each that calls it, so faiss is bounded here. Its helpers wait
    # busily for the next search, and would take a core from the engine.
    threadpool_limits(threads)
    if sys.platform == "linux":  # elsewhere it would be the whole process
        thread = threading.get_native_id()
        nice = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, nice + _NICE)
