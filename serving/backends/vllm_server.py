"""vLLM's own OpenAI server as a child process: started, warmed, watched, ended.

It listens on loopback with a key of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from neurorit.core.errors import BadInput, NeuroritError
from neurorit.model.checkpoint import checkpoint_name
from neurorit.model.precision import compute_dtype
from neurorit.serving.backends.adapters import Adapters
from neurorit.serving.backends.vllm_env import (
    check_flags,
    check_model,
    engine_environment,
    has_gpu,
    require_vllm,
    short_context,
    start_failure,
    temporary_log,
)

LOOPBACK = "127.0.0.1"
_STOP_SECONDS = 10.0
_SLOW_SECONDS = 10.0


class VllmServer:
    """A vLLM server for one checkpoint; use it as a context manager, or call `start` and `stop`.

    port: 0 takes a free one; max_model_len: tokens of prompt and answer (None: the checkpoint's, of
    one with other positions for long texts those of short ones); served_name: the model's name for
    clients (None: the directory's); extra_args: vLLM's own flags, which win over what is set here;
    log: file for vLLM's output (None: a temporary one); start_timeout: seconds until a server that
    is not healthy counts as failed; adapters: what it loads at each start, and makes room for.
    """

    def __init__(
        self,
        model_dir: Path,
        *,
        port: int = 0,
        max_model_len: int | None = None,
        served_name: str | None = None,
        extra_args: Sequence[str] = (),
        log: Path | None = None,
        start_timeout: float = 600.0,
        adapters: Adapters | None = None,
    ) -> None:
        self.model_dir = check_model(model_dir).resolve()
        self.model = served_name or checkpoint_name(model_dir)
        self.port = free_port() if port == 0 else require_free_port(LOOPBACK, port, "port")
        self.api_key = secrets.token_urlsafe(24)
        self.log = Path(log) if log is not None else temporary_log()
        self._any_port = port == 0
        self._max_model_len = max_model_len
        self._extra_args = check_flags(extra_args)
        self._start_timeout = start_timeout
        self._adapters = adapters
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def base_url(self) -> str:
        """Where it listens."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Process id of the server, None while there is none."""
        return self._process.pid if self._process is not None else None

    @property
    def alive(self) -> bool:
        """True while the process runs (it may still be loading)."""
        return self._process is not None and self._process.poll() is None

    def start(self, tell: Callable[[str], None] | None = None, *, new_port: bool = False) -> None:
        """Start the process, wait until it is healthy, and warm it up; blocks for a minute on CPU.

        tell: is told each phase; new_port: take another free one, unless it was named. Raises
        NeuroritError with the cause from vLLM's log when it does not come up; `stop` from another
        thread ends the waiting.
        """
        say = tell or (lambda phase: None)
        require_vllm()
        self._end_process()
        if new_port and self._any_port:
            self.port = free_port()
        if (short := self._short) is not None:
            say(
                f"{self.model} takes {short} tokens of prompt and answer, as its positions for "
                "short texts do; --max-model-len takes more, with those for long texts throughout"
            )
        say("starting vLLM")
        self._process = self._spawn()
        try:
            self._wait_healthy(self._process)
            # The first batch costs up to 20 s on CPU: no user should be the one to wait for it.
            say("warming up vLLM")
            self._warm_up()
        except BaseException:
            self._end_process()
            raise

    def healthy(self) -> bool | None:
        """Whether it answers on `/health`; None where it did not answer in time."""
        import httpx

        try:
            url = f"{self.base_url}/health"
            return httpx.get(url, timeout=_SLOW_SECONDS, trust_env=False).status_code == 200
        except httpx.TimeoutException:
            return None
        except httpx.HTTPError:
            return False

    def stop(self) -> None:
        """End vLLM with all its children; a server that was stopped cannot be started again."""
        self._stopped.set()
        self._end_process()

    def command(self) -> list[str]:
        """The command line; the key is not in it, since others can read command lines."""
        flags = {
            "--model": str(self.model_dir),
            "--served-model-name": self.model,
            "--host": LOOPBACK,
            "--port": str(self.port),
            "--dtype": compute_dtype(self.model_dir, gpu=has_gpu()),
            # Else a checkpoint's penalties would decide; its end tokens hold all the same.
            "--generation-config": "vllm",
        }
        most = self._max_model_len or self._short
        if most is not None:
            flags["--max-model-len"] = str(most)
        if self._adapters is not None:
            flags |= {
                "--max-loras": str(self._adapters.most),
                # One that is replaced stays until the last request that uses it has ended.
                "--max-cpu-loras": str(2 * self._adapters.most),
                "--max-lora-rank": str(self._adapters.rank),
            }
        given = self._given
        command = [sys.executable, "-m", "neurorit.serving.backends.vllm_child"]
        for name, value in flags.items():
            if name not in given:
                command += [name, value]
        if not has_gpu():
            # Compiling a graph takes minutes on CPU and wins little for short answers.
            command.append("--enforce-eager")
        if self._adapters is not None:
            command.append("--enable-lora")
            if loras := self._adapters.at_start():
                found = [{"name": lora.served, "path": str(lora.directory)} for lora in loras]
                command += ["--lora-modules", *map(json.dumps, found)]
        return [*command, *self._extra_args]

    @property
    def _given(self) -> set[str]:
        """Names of the user's own flags."""
        return {argument.split("=", 1)[0] for argument in self._extra_args}

    @property
    def _short(self) -> int | None:
        """Tokens of short texts, where long ones have other positions and nobody says how many."""
        said = self._max_model_len is not None or "--max-model-len" in self._given
        return None if said else short_context(self.model_dir)

    def _spawn(self) -> subprocess.Popen[bytes]:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.is_file():
            # After a crash its log is what one wants to read.
            os.replace(self.log, self.log.with_name(f"{self.log.name}.previous"))
        environment = engine_environment(self._extra_args) | {"VLLM_API_KEY": self.api_key}
        if self._adapters is not None:
            # Only who has its key, which is this process, reaches what loads adapters.
            environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
        with open(self.log, "wb") as log:
            return subprocess.Popen(
                self.command(),
                # Nothing is ever written to it: its end tells vLLM that this process is gone.
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                # A group of its own, so that its worker processes can be ended with it. Not a
                # session: Linux shares a core between sessions before threads, and vLLM's waiting
                # thread, which never sleeps, was seen to hold a search up for 0.4 s.
                process_group=0,
            )

    def _wait_healthy(self, process: subprocess.Popen[bytes]) -> None:
        import httpx

        deadline = time.monotonic() + self._start_timeout
        while not self._stopped.wait(0.25):
            if process.poll() is not None:
                raise start_failure(self.log, f"vLLM did not start (status {process.returncode})")
            with contextlib.suppress(httpx.HTTPError):
                url = f"{self.base_url}/health"
                if httpx.get(url, timeout=2.0, trust_env=False).status_code == 200:
                    return
            if time.monotonic() > deadline:
                what = f"vLLM was not ready within {self._start_timeout:.0f} s"
                raise start_failure(self.log, what)
        raise NeuroritError("vLLM was stopped while it was starting")

    def _warm_up(self) -> None:
        import httpx

        try:
            response = httpx.post(
                f"{self.base_url}/v1/completions",
                headers={"Authorization": f"Bearer {self.api_key}"},
                json={
                    "model": self.model,
                    "prompt": [1] * 64,
                    "max_tokens": 4,
                    "temperature": 0,
                    "ignore_eos": True,
                },
                timeout=self._start_timeout,
                # Of the environment's proxies none is to see this key, or can reach loopback.
                trust_env=False,
            )
            response.raise_for_status()
        except httpx.HTTPError as error:
            raise start_failure(self.log, f"vLLM's first completion failed ({error})") from error

    def _end_process(self) -> None:
        process = self._process
        if process is None:
            return
        _signal_group(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        # Also when the leader is gone: its children may not be.
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
        self._process = None


def free_port() -> int:
    """A port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def require_free_port(host: str, port: int, parameter: str) -> int:
    """The port itself, if one can listen there; raises BadInput naming the parameter if not."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As servers do: a port whose last connections are still closing counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BadInput(
                f"‹{parameter}={port}› on {host} cannot be used ({reason}); name another one"
            ) from error
    return port


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
