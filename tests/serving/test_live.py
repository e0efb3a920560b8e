"""The real thing on a tiny Llama: vLLM behind the gateway, over HTTP and in a real browser."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.engine import free_port
from serving.offline import OfflineEngine
from tests.serving.tiny import save_tiny_llama

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

QUESTION = "Where was Mira Solden born and what is Glass"
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Live:
    """A running gateway: its address, its process and the phases `/ready` went through."""

    url: str
    process: subprocess.Popen[bytes]
    model: Path
    phases: list[str]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    directory = tmp_path_factory.mktemp("live")
    model = save_tiny_llama(directory / "tiny")
    port = free_port()
    script = ROOT / "tests" / "serving" / "run_gateway.py"
    with open(directory / "gateway.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(script), str(model), str(port), str(directory / "vllm.log")],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
    server = Live(f"http://127.0.0.1:{port}", process, model, [])
    try:
        _wait_ready(server, directory / "gateway.log")
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(60)


def test_phases_were_told_while_it_started(live: Live) -> None:
    assert "starting vLLM" in live.phases
    assert live.phases[-1] == "ready"


def test_answers_equal_those_of_the_model_itself(live: Live) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from neurorit.prompts import PromptTemplate, render_prompt
    from tests.serving.fakes import WordRetriever

    tokenizer = AutoTokenizer.from_pretrained(live.model)
    hits = WordRetriever().search([QUESTION], 3)[0]
    ids = render_prompt(tokenizer, PromptTemplate(), QUESTION, [hit.passage for hit in hits])
    expected = _greedy(AutoModelForCausalLM.from_pretrained(live.model), ids, 12)
    body = _chat(live).json()
    text = tokenizer.decode(expected, skip_special_tokens=True).strip()
    assert body["choices"][0]["message"]["content"].strip() == text
    assert body["usage"]["prompt_tokens"] == len(ids)
    assert [p["id"] for p in body["neurorit"]["passages"]] == [h.passage.id for h in hits]


def test_the_stream_says_the_same_as_the_whole_answer(live: Live) -> None:
    whole = _chat(live).json()["choices"][0]["message"]["content"]
    lines = [line[6:] for line in _chat(live, stream=True).text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    deltas = [json.loads(line)["choices"][0]["delta"] for line in lines[:-1]]
    assert "".join(delta.get("content", "") for delta in deltas) == whole


def test_vllm_itself_refuses_those_without_its_key(live: Live) -> None:
    command = Path(f"/proc/{_vllm_pid(live)}/cmdline").read_bytes().split(b"\0")
    port = command[command.index(b"--port") + 1].decode()
    response = httpx.get(f"http://127.0.0.1:{port}/v1/models")
    assert response.status_code == 401


def test_a_browser_asks_and_shows_passages_as_text(live: Live, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on this machine: apt-get install -y chromium")
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 820})
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        page.goto(live.url)
        expect(page.locator("#status")).to_have_attribute("data-state", "ready")
        page.keyboard.type(QUESTION)
        page.keyboard.press("Enter")
        expect(page.locator("#result")).to_have_attribute("aria-busy", "false", timeout=60_000)
        expect(page.locator("#passages li")).to_have_count(3)
        assert page.locator("#answer").inner_text().strip()
        assert "<script>document.title='owned'</script>" in page.locator("#passages").inner_text()
        assert page.title() == "Ask · neurorit-rag"
        assert page.locator("#passages script, #passages b").count() == 0
        light = _look(page, "light")
        page.emulate_media(color_scheme="dark")
        assert _look(page, "dark") != light
        pictures = Path(os.environ.get("NEURORIT_SCREENSHOTS", tmp_path))
        page.screenshot(path=pictures / "page-dark.png", full_page=True)
        page.emulate_media(color_scheme="light")
        page.screenshot(path=pictures / "page-light.png", full_page=True)
        browser.close()
    assert problems == []


def test_a_killed_vllm_is_started_again(live: Live) -> None:
    killed = _vllm_pid(live)
    os.killpg(killed, signal.SIGKILL)
    _wait_for(lambda: httpx.get(f"{live.url}/ready").status_code == 503, 30)
    assert _chat(live).status_code == 503
    _wait_for(lambda: httpx.get(f"{live.url}/ready").status_code == 200, 400)
    assert _chat(live).status_code == 200
    assert _vllm_pid(live) != killed


def test_sigterm_ends_the_gateway_and_vllm(live: Live) -> None:
    child = _vllm_pid(live)
    live.process.send_signal(signal.SIGTERM)
    assert live.process.wait(60) == 0
    _wait_for(lambda: not Path(f"/proc/{child}").exists(), 10)


def test_offline_completions_equal_the_models_own(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    models = {
        "a": save_tiny_llama(tmp_path / "a", seed=1),
        "b": save_tiny_llama(tmp_path / "b", seed=2, hidden=192, heads=3),
    }
    prompts = [[1, *range(10 + i, 40 + 2 * i), 3] for i in range(12)]
    with OfflineEngine() as engine:
        for name in ("a", "b", "a"):
            got = engine.generate(models[name], prompts, max_tokens=8)
            model = AutoModelForCausalLM.from_pretrained(models[name])
            for ids, completion in zip(prompts, got, strict=True):
                assert list(completion.token_ids) == _greedy(model, ids, 8)
        assert [what for what, _ in engine.timings].count("import") == 1
        first = engine.generate(models["a"], prompts[:2], max_tokens=8)
        stop = first[0].token_ids[2]
        stopped = engine.generate(models["a"], prompts[:1], max_tokens=8, stop_token_ids=[stop])
        assert stopped[0].finish_reason == "stop"
        assert len(stopped[0].token_ids) <= 3
        assert [what for what, _ in engine.timings].count("engine") == 3


def _greedy(model: Any, ids: list[int], count: int) -> list[int]:
    import torch

    made = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=count,
        do_sample=False,
    )
    return [int(token) for token in made[0, len(ids) :]]


def _chat(live: Live, **fields: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": QUESTION}], **fields}
    return httpx.post(f"{live.url}/v1/chat/completions", json=body, timeout=120)


def _vllm_pid(live: Live) -> int:
    """The gateway's only child process."""
    pid = live.process.pid
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += [int(child) for child in (task / "children").read_text().split()]
    assert len(children) == 1
    return children[0]


def _look(page: Any, scheme: str) -> str:
    page.emulate_media(color_scheme=scheme)
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


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

    _wait_for(is_ready, 600)


def _wait_for(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.2)
