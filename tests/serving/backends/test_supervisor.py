"""A vLLM that ends, fails to start again, or hangs; with processes that only play vLLM."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from neurorit.core.errors import BadInput, NeuroritError
from neurorit.serving.backends import supervisor as keeping
from neurorit.serving.backends.vllm_server import VllmServer
from tests.serving.live import ROOT, wait_for


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_WATCH_SECONDS", "_HEALTH_SECONDS", "_BACK_OFF_SECONDS"):
        monkeypatch.setattr(keeping, name, 0.01)


class Playing(VllmServer):
    """An engine whose state and starts are a script: None is a start that succeeds."""

    def __init__(self, starts: list[str | Exception | None], health: list[bool | None]) -> None:
        self.starts, self.health = starts, health
        self.new_ports: list[bool] = []
        self.log = Path("vllm.log")
        self.running = True

    @property
    def alive(self) -> bool:
        return self.running

    def healthy(self) -> bool | None:
        if not self.health:
            self.running = False
            return False
        return self.health.pop(0)

    def start(self, tell: object = None, *, new_port: bool = False) -> None:
        self.new_ports.append(new_port)
        failure = self.starts.pop(0)
        if failure is not None:
            raise failure if isinstance(failure, Exception) else NeuroritError(failure)
        self.running = True


def keep(engine: Playing) -> list[str]:
    """What is told until the starts are used up."""
    told: list[str] = []

    async def nothing() -> None:
        if not engine.starts:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(keeping.keep_running(engine, told.append, nothing))
    return told


def test_a_restart_that_fails_is_tried_again_on_another_port() -> None:
    engine = Playing(["no port", None, None], [])
    assert keep(engine) == ["restarting vLLM"] * 2 + ["ready", "restarting vLLM"]
    assert engine.new_ports == [False, True, False]


def test_a_machine_that_is_short_of_memory_for_a_moment_ends_no_gateway() -> None:
    engine = Playing([OSError(12, "Cannot allocate memory"), None], [])
    assert keep(engine) == ["restarting vLLM"] * 2


def test_one_that_keeps_failing_is_an_error_with_its_log() -> None:
    engine = Playing(["no memory"] * 9, [])

    async def nothing() -> None:
        pass

    with pytest.raises(NeuroritError, match=r"vLLM ended 4 times .* vllm\.log"):
        asyncio.run(keeping.keep_running(engine, lambda phase: None, nothing))
    assert len(engine.new_ports) == 3


def test_slow_is_no_sickness_but_silent_for_long_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def down(health: list[bool | None], hung: float) -> Playing:
        monkeypatch.setattr(keeping, "_HUNG_SECONDS", hung)
        engine = Playing([], health)
        await keeping.until_down(engine)
        return engine

    slow = asyncio.run(down([None, True] * 20, 60.0))
    assert not slow.running, "it was watched until it ended"
    hung = asyncio.run(down([True, *[None] * 10_000], 0.1))
    assert hung.running and hung.health
    failing = asyncio.run(down([True, False, False, True, False, False, False, True], 60.0))
    assert failing.health == [True]


def test_a_server_that_is_stopped_still_does_not_answer_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurorit.serving.backends.vllm_server._SLOW_SECONDS", 0.3)
    (tmp_path / "config.json").write_text("{}")
    server = VllmServer(tmp_path)
    command = [sys.executable, "-m", "http.server", str(server.port), "--bind", "127.0.0.1"]
    (tmp_path / "health").write_text("")
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: server.healthy() is True, 20)
            process.send_signal(signal.SIGSTOP)
            assert server.healthy() is None
        finally:
            process.kill()
    assert server.healthy() is False


def test_neither_proxies_nor_their_absence_come_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The health check and the warming up ask loopback itself, whatever the environment says."""
    program = """
import http.server, sys
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(200); self.end_headers()
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"])); self.do_GET()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), H).serve_forever()
"""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(
        VllmServer, "command", lambda self: [sys.executable, "-c", program, str(self.port)]
    )
    with VllmServer(tmp_path, start_timeout=20) as server:
        assert server.healthy() is True
        before = server.port
        server.start(new_port=True)
        assert server.port != before and server.base_url.endswith(str(server.port))
        assert server.healthy() is True


def test_a_child_does_not_outlive_a_parent_that_was_killed(tmp_path: Path) -> None:
    child = (
        "import os, time; from neurorit.core.parent import end_with_parent;"
        "end_with_parent(); print(os.getpid(), flush=True); time.sleep(600)"
    )
    parent = (
        "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', sys.argv[1]],"
        "stdin=subprocess.PIPE, process_group=0); time.sleep(600)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", parent, child], stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        time.sleep(0.2)
        assert _runs(pid)
        process.kill()
        wait_for(lambda: not _runs(pid), 20)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    "flags",
    [("--port", "1"), ("--api-key=x",), ("--host", "0.0.0.0"), ("--served_model_name", "x")],
)
def test_flags_that_the_gateway_sets_are_refused_by_name(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    name = flags[0].split("=")[0].replace("_", "-")
    with pytest.raises(BadInput, match=f"{name} is no flag for vLLM here"):
        VllmServer(tmp_path, extra_args=flags)
