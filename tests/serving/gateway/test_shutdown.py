"""Ending gateways: what was begun is finished, and nothing is left behind. Named to come last."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.serving.live import Live, chat, running_in_vllm, vllm_address, vllm_pid, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@contextlib.contextmanager
def under_load(asked: Live, url: str) -> Iterator[list[httpx.Response]]:
    """Eight requests that were begun when the block begins, and their answers at its end."""
    answers: list[httpx.Response] = []
    before = _accepted(asked)

    def ask(stream: bool) -> None:
        answers.append(chat(asked, max_tokens=1500, neurorit={"top_k": 0}, stream=stream))

    askers = [threading.Thread(target=ask, args=(i % 2 == 0,)) for i in range(8)]
    for asker in askers:
        asker.start()
    # Not all at one moment: on a busy machine the first may be whole before the last has come.
    wait_for(lambda: _accepted(asked) == before + 8, 120)
    # On a busy machine all may be whole before this one looks.
    wait_for(
        lambda: running_in_vllm(url) > 0 or len(answers) == len(askers),
        60,
        lambda: [answer.status_code for answer in answers],
    )
    yield answers
    for asker in askers:
        asker.join(300)
    assert len(answers) == 8
    assert [answer.text for answer in answers if answer.status_code != 200] == []
    assert sum(answer.text.endswith("data: [DONE]\n\n") for answer in answers) >= 4


def _accepted(asked: Live) -> int:
    """Chats that the gateway has begun so far, answered ones included."""
    text = httpx.get(f"{asked.url}/metrics", timeout=60).text
    route = 'neurorit_requests_total{route="/v1/chat/completions"'
    names = (route, "neurorit_requests_running ")
    return int(sum(float(li.split()[-1]) for li in text.splitlines() if li.startswith(names)))


def test_sigterm_under_load_finishes_what_was_begun(live: Live, front: Live) -> None:
    url, _ = vllm_address(live)
    with under_load(front, url):
        front.process.send_signal(signal.SIGTERM)
    assert front.process.wait(60) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{front.url}/health")
    # The vLLM that it only used runs on.
    assert chat(live).status_code == 200


def test_sigterm_under_load_ends_the_gateway_and_its_own_vllm_afterwards(live: Live) -> None:
    child, (url, _) = vllm_pid(live), vllm_address(live)
    with under_load(live, url):
        live.process.send_signal(signal.SIGTERM)
    assert live.process.wait(60) == 0
    wait_for(lambda: not Path(f"/proc/{child}").exists(), 10)
