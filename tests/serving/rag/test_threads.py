"""Threads that search and render give way to the model's engine on shared cores."""

from __future__ import annotations

import os
import sys
import threading

import faiss

from neurorit.serving.rag.threads import one_thread, search_threads


def test_the_thread_takes_few_threads_and_goes_second() -> None:
    """Others, and the event loop's above all, keep what they have."""

    def seen() -> tuple[str, int, int]:
        nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        return threading.current_thread().name, faiss.omp_get_max_threads(), nice

    before = seen()
    with one_thread("retrieval") as pool:
        name, threads, nice = pool.submit(seen).result()
    assert name.startswith("retrieval")
    assert threads == search_threads()
    assert nice > before[2] or sys.platform != "linux"
    assert seen() == before
