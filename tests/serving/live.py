"""What the slow tests share: real gateways in processes of their own, and one vLLM for all."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from neurorit.serving.backends.vllm_server import free_port

ADMIN = "sk-admin-of-the-live-one"
QUESTION = "Where was Mira Solden born and what is Glass"
# One client for all: to make one anew takes longer than some of what is to be seen.
_client = httpx.Client(timeout=30, trust_env=False)
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Live:
    """A running gateway: its address, its process and the phases `/ready` went through."""

    url: str
    process: subprocess.Popen[bytes]
    model: Path
    folder: Path
    phases: list[str] = field(default_factory=list)


@contextmanager
def gateway(
    model: Path, folder: Path, *more: str, key: str = "", api_keys: str = "", admin: str = ""
) -> Iterator[Live]:
    """A gateway with an own vLLM; more: the adapters of that, or an upstream in place of it."""
    port = free_port()
    script = ROOT / "tests" / "serving" / "run_gateway.py"
    command = [sys.executable, str(script), str(model), str(port), str(folder / "vllm.log")]
    keys = {"NEURORIT_UPSTREAM_KEY": key, "NEURORIT_BASE_KEY": key}
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | keys
    environment.pop("NEURORIT_API_KEYS", None)
    if admin:
        environment["NEURORIT_ADMIN_KEY"] = admin
    # The tests' own number of threads is not what a user's vLLM is placed by.
    environment.pop("OMP_NUM_THREADS", None)
    if api_keys:
        environment["NEURORIT_API_KEYS"] = api_keys
    with open(folder / "gateway.log", "wb") as log:
        process = subprocess.Popen(
            [*command, *more], stdout=log, stderr=subprocess.STDOUT, env=environment
        )
    server = Live(f"http://127.0.0.1:{port}", process, model, folder)
    try:
        _wait_ready(server, folder / "gateway.log")
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(90)


def chat(live: Live, **fields: Any) -> httpx.Response:
    """One question to a gateway."""
    body = {"messages": [{"role": "user", "content": QUESTION}], **fields}
    return _client.post(f"{live.url}/v1/chat/completions", json=body, timeout=300)


def vllm_pid(live: Live) -> int:
    """The gateway's only child process."""
    pid = live.process.pid
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += [int(child) for child in (task / "children").read_text().split()]
    assert len(children) == 1
    return children[0]


def vllm_address(live: Live) -> tuple[str, str]:
    """Where a gateway's own vLLM listens, and its key."""
    process = Path(f"/proc/{vllm_pid(live)}")
    command = (process / "cmdline").read_bytes().split(b"\0")
    port = command[command.index(b"--port") + 1].decode()
    variables = (process / "environ").read_bytes().split(b"\0")
    key = next(v for v in variables if v.startswith(b"VLLM_API_KEY=")).partition(b"=")[2]
    return f"http://127.0.0.1:{port}", key.decode()


def running_in_vllm(url: str) -> int:
    """Requests that vLLM says it runs or has waiting."""
    return vllm_figure(url, "num_requests_(?:running|waiting)")


def vllm_figure(url: str, name: str) -> int:
    """The sum of vLLM's figures whose name matches the pattern, whatever their labels."""
    text = _client.get(f"{url}/metrics").text
    figures = re.findall(rf"^vllm:{name}\{{[^}}]*\}} (\S+)$", text, re.M)
    assert figures, f"vLLM's metrics have no {name} now"
    return int(sum(float(figure) for figure in figures))


def wait_for(
    condition: Callable[[], bool], seconds: float, state: Callable[[], object] = lambda: ""
) -> None:
    """Wait until a condition holds; when it does not in time, fail and say the state."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it took too long: {state()}"
        time.sleep(0.02)


def _wait_ready(server: Live, log: Path) -> None:
    def is_ready() -> bool:
        assert server.process.poll() is None, log.read_text()
        try:
            state = httpx.get(f"{server.url}/ready").json()
        except httpx.TransportError:
            return False
        if not server.phases or server.phases[-1] != state["phase"]:
            server.phases.append(state["phase"])
        return bool(state["ready"])

    wait_for(is_ready, 600)
