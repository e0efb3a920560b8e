"""`serve` in a process of its own, as a user would start it, and one question for it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neurorit.core.atomic_files import write_text
from neurorit.core.errors import NeuroritError
from neurorit.pipelines.serving.serve import ask

_START_SECONDS = 600.0
_STOP_SECONDS = 30.0


@contextmanager
def served(model: Path, index: Path, log: Path) -> Iterator[str]:
    """The address of a gateway in a process of its own, for the time of the block."""
    import httpx

    from neurorit.serving.backends.vllm_server import free_port

    port = free_port()
    command = [sys.executable, "-m", "neurorit.cli", "serve", "--model", str(model)]
    command += ["--index", str(index), "--port", str(port)]
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            if process.poll() is not None:
                lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
                cause = lines[-1] if lines else "it said nothing"
                raise NeuroritError(f"serve ended by itself: {cause} (log: {log})")
            try:
                if httpx.get(f"{url}/ready", timeout=2.0).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            if time.monotonic() > deadline:
                raise NeuroritError(f"serve was not ready in {_START_SECONDS:.0f} s (log: {log})")
            time.sleep(0.5)
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ask_served(model: Path, index: Path, question: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Serve a tuned model over an index, ask it one question, and keep its answer.

    question: a record with `question` and `answers`. Writes served.json, with the model's name as
    `tuned`, and serve.log into `out`.
    Raises NeuroritError where the server does not come up.
    """
    with served(model, index, out / "serve.log") as url:
        said = ask(question["question"], url)
    found = {"tuned": model.name, **said, "expected": question["answers"]}
    write_text(out / "served.json", json.dumps(found, indent=2) + "\n")
    return found
