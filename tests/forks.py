"""Processes that tests kill, forked from one that has torch: a start costs no imports."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

_server = multiprocessing.get_context("forkserver")
# Imports only: nothing has computed there, so no thread is lost by forking.
_server.set_forkserver_preload(
    ["tests.neurorit.mining.test_mine", "tests.neurorit.tuning.test_tune"]
)


@contextmanager
def forked(work: Callable[..., None], *arguments: Any) -> Iterator[Connection]:
    """Run `work(*arguments, pipe)` in a process of its own; it is killed (-9) at the block's end.

    Yields the pipe's other end, whose `recv` raises EOFError when the process has ended.
    """
    ours, theirs = _server.Pipe(duplex=False)
    process = _server.Process(target=work, args=(*arguments, theirs))
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        process.kill()
        process.join()
        ours.close()
