"""Processes that tests start often, forked from one that has torch: a start costs no imports."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from neurorit.cli import main
from neurorit.serving.backends.vllm_server import free_port

_server = multiprocessing.get_context("forkserver")
# Imports only: nothing has computed there, so no thread is lost by forking.
_LIGHT = [
    "tests.retrieval.counting_encoder",
    "neurorit.retrieval.index.build",
    "neurorit.retrieval.retriever",
    "neurorit.retrieval.bm25.build",
]
_HEAVY = [
    "tests.neurorit.mining.test_mine",
    "tests.neurorit.tuning.test_tune",
    "tests.retrieval.index.test_build",
    "neurorit.cli.evaluation.evaluate",
    "neurorit.pipelines.evaluation.command",
    "neurorit.eval.judges.endpoint",
    "transformers.models.auto.tokenization_auto",
]
_server.set_forkserver_preload(_HEAVY)


def preload_little() -> None:
    """For tests that compute nothing in what they start, such as the quick ones."""
    _server.set_forkserver_preload(_LIGHT)


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


def command(arguments: list[str], log: Path, **environment: str) -> BaseProcess:
    """`neurorit-rag ARGUMENTS` in a process of its own, started; it writes to the end of `log`.

    environment: variables beside those that were set when the first process was forked.
    """
    process = _server.Process(target=_run_command, args=(arguments, log, environment))
    process.start()
    return process


def run_in_two_processes(code: str, *arguments: Path) -> None:
    """As `run_in_processes`, in two."""
    run_in_processes(2, code, *arguments)


def run_in_processes(count: int, code: str, *arguments: Path) -> None:
    """Run Python code in processes on the CPU that know each other as torchrun's do.

    When one fails the others are ended too; the AssertionError says how and shows what they wrote.
    """
    import torch

    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        many = str(count)
        shared = {"WORLD_SIZE": many, "LOCAL_WORLD_SIZE": many, "ACCELERATE_USE_CPU": "1"}
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        processes = []
        for rank in map(str, range(count)):
            environment = {**shared, "RANK": rank, "LOCAL_RANK": rank}
            # Sums are rounded alike only with as many threads as here.
            given = (code, arguments, log, environment, torch.get_num_threads())
            processes.append(_server.Process(target=_run_code, args=given))
        for process in processes:
            process.start()
        deadline = time.monotonic() + 300
        while any(process.is_alive() for process in processes):
            wait([process.sentinel for process in processes if process.is_alive()], 1)
            failed = any(process.exitcode for process in processes)
            if failed or time.monotonic() > deadline:
                for process in processes:
                    process.kill()
                    process.join()
        ended = [process.exitcode or 0 for process in processes]
        names = [signal.Signals(-code).name if code < 0 else str(code) for code in ended]
        assert not any(ended), f"ended with {', '.join(names)}\n{log.read_text(errors='replace')}"


def _run_code(
    code: str, arguments: tuple[Path, ...], log: Path, environment: Mapping[str, str], threads: int
) -> None:
    import torch

    _write_into(log)
    os.environ.update(environment)
    torch.set_num_threads(threads)
    sys.argv = ["code", *map(str, arguments)]
    exec(compile(code, "code", "exec"), {"__name__": "__main__"})
    atexit._run_exitfuncs()  # a forked process ends without them


def _run_command(arguments: list[str], log: Path, environment: Mapping[str, str]) -> None:
    _write_into(log)
    os.environ.update(environment)
    sys.argv = ["neurorit-rag", *arguments]
    main()


def _write_into(log: Path) -> None:
    with open(log, "ab") as written:
        os.dup2(written.fileno(), 1)
        os.dup2(written.fileno(), 2)
