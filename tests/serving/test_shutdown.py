"""Ending gateways: what was begun is finished, and nothing is left behind. Named to come last."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import httpx
import pytest

from tests.serving.live import Live, chat, running_in_vllm, vllm_address, vllm_pid, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_sigterm_under_load_finishes_what_was_begun(live: Live, front: Live) -> None:
    url, _ = vllm_address(live)
    statuses: list[int] = []
    contents: list[str] = []

    def ask(stream: bool) -> None:
        response = chat(front, max_tokens=1000, neurorit={"top_k": 0}, stream=stream)
        statuses.append(response.status_code)
        contents.append(response.text)

    askers = [threading.Thread(target=ask, args=(i % 2 == 0,)) for i in range(8)]
    for asker in askers:
        asker.start()
    wait_for(lambda: running_in_vllm(url) == 8, 60, lambda: contents)
    front.process.send_signal(signal.SIGTERM)
    for asker in askers:
        asker.join(120)
    assert statuses == [200] * 8
    assert sum(text.endswith("data: [DONE]\n\n") for text in contents) == 4
    assert front.process.wait(60) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{front.url}/health")
    # The vLLM that it only used runs on.
    assert chat(live).status_code == 200


def test_sigterm_ends_the_gateway_and_its_own_vllm(live: Live) -> None:
    child = vllm_pid(live)
    live.process.send_signal(signal.SIGTERM)
    assert live.process.wait(60) == 0
    wait_for(lambda: not Path(f"/proc/{child}").exists(), 10)
