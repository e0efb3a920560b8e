"""The real thing on a tiny Llama: vLLM behind gateways, over HTTP and OpenAI's own client.

The last tests of this file and those of `test_shutdown.py` end processes: they come last.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from neurorit.eval.judges.endpoint import EndpointJudge
from neurorit.eval.predictions import Item
from neurorit.serving.backends.offline import OfflineEngine
from tests.serving.live import (
    ADMIN,
    QUESTION,
    Live,
    chat,
    running_in_vllm,
    vllm_address,
    vllm_figure,
    vllm_pid,
    wait_for,
)
from tests.serving.loras import save_lora
from tests.serving.tiny_llama import save_tiny_llama
from tests.shared_vllm import SharedWorker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


# The tiny model ends no answer by itself, so this one takes many seconds.
LONG: Any = {"max_tokens": 4000, "neurorit": {"top_k": 0}}


def test_phases_were_told_while_it_started(live: Live) -> None:
    assert "starting vLLM" in live.phases
    assert live.phases[-1] == "ready"


def test_vllm_is_a_group_of_the_gateways_session(live: Live) -> None:
    # Linux shares cores between sessions: in one of its own, vLLM held searches up for 0.4 s.
    child, parent = vllm_pid(live), live.process.pid
    assert os.getsid(child) == os.getsid(parent)
    assert os.getpgid(child) == child != os.getpgid(parent)


def test_answers_equal_those_of_the_model_itself(live: Live) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from neurorit.model.prompts import PromptTemplate, render_prompt
    from tests.serving.fakes import WordRetriever

    tokenizer = AutoTokenizer.from_pretrained(live.model)
    hits = WordRetriever().search([QUESTION], 3)[0]
    ids = render_prompt(tokenizer, PromptTemplate(), QUESTION, [hit.passage for hit in hits])
    expected = _greedy(AutoModelForCausalLM.from_pretrained(live.model), ids, 12)
    body = chat(live).json()
    text = tokenizer.decode(expected, skip_special_tokens=True).strip()
    assert body["choices"][0]["message"]["content"].strip() == text
    assert body["usage"]["prompt_tokens"] == len(ids)
    assert [p["id"] for p in body["neurorit"]["passages"]] == [h.passage.id for h in hits]


def test_the_stream_says_the_same_as_the_whole_answer(live: Live) -> None:
    whole = chat(live).json()["choices"][0]["message"]["content"]
    lines = [line[6:] for line in chat(live, stream=True).text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    deltas = [json.loads(line)["choices"][0]["delta"] for line in lines[:-1]]
    assert "".join(delta.get("content", "") for delta in deltas) == whole


def test_vllm_itself_refuses_those_without_its_key(live: Live) -> None:
    url, key = vllm_address(live)
    assert httpx.get(f"{url}/v1/models").status_code == 401
    assert key not in " ".join(Path(f"/proc/{vllm_pid(live)}/cmdline").read_text().split("\0"))


@pytest.mark.parametrize(("word", "verdict"), [("Yes", "right"), ("No", "wrong")])
def test_a_judge_that_thinks_first_is_read_after_its_thinking(
    live: Live, word: str, verdict: str
) -> None:
    """It takes `max_completion_tokens` alone; with too few of them it comes to no verdict."""
    url, key = vllm_address(live)
    form = {"regex": f"<think>[a-z ]{{20,30}}</think>{word}"}

    def judge(room: int) -> EndpointJudge:
        fields = {"max_tokens": None, "max_completion_tokens": room, "structured_outputs": form}
        name = live.model.name
        return EndpointJudge(f"{url}/v1", name, api_key=key, thinking_tokens=room, request=fields)

    items = [Item(QUESTION, ("Karvel",), answer) for answer in ("Karvel", "Glass")]
    thoughtful, hasty = judge(100), judge(10)
    assert thoughtful.decide(items) == [verdict, verdict]
    assert hasty.decide(items) == ["unscored", "unscored"]
    assert "thinking_tokens" in hasty.failure


def test_a_gateway_before_a_running_server_says_the_same(live: Live, front: Live) -> None:
    assert "looking for the upstream servers" in front.phases or front.phases == ["ready"]
    answers = [chat(server).json()["choices"] for server in (live, front)]
    assert answers[0] == answers[1]


def test_base_and_adapters_in_one_batch_answer_as_the_merged_models(live: Live) -> None:
    folder = save_lora(live.folder / "c", live.model, seed=2)
    admin = {"Authorization": f"Bearer {ADMIN}"}
    added = httpx.post(
        f"{live.url}/v1/adapters",
        json={"name": "c", "directory": str(folder)},
        headers=admin,
        timeout=60,
    )
    try:
        assert [one["name"] for one in added.json()["data"]] == ["a", "b", "c"]
        asked = [
            [{"role": "user", "content": f"{QUESTION} number {number}"}] for number in range(6)
        ]
        jobs = [(name, messages) for messages in asked for name in ("tiny", "a", "b", "c")]

        def answer(job: Any) -> str:
            body = chat(live, model=job[0], messages=job[1], neurorit={"top_k": 0}).json()
            return whole(body["choices"][0]["message"]["content"])

        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(answer, jobs))
        expected = [merged_answer(live, *job) for job in jobs]
        assert answers == expected
        assert len(set(answers[:4])) == 4
    finally:
        removed = httpx.delete(f"{live.url}/v1/adapters/c", headers=admin)
    assert removed.status_code == 200
    assert chat(live, model="c").status_code == 404
    body = {"question": QUESTION, "model": "b"}
    sides = httpx.post(f"{live.url}/v1/rag/compare", json=body, timeout=60).json()["systems"]
    assert [side["model"] for side in sides] == ["tiny", "b"]
    assert sides[0]["answer"] != sides[1]["answer"]


def merged_answer(live: Live, name: str, messages: list[dict[str, str]]) -> str:
    """What transformers answers with an adapter's factors added to the base's weights."""
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from neurorit.model.prompts import PromptTemplate, render_prompt

    model = AutoModelForCausalLM.from_pretrained(live.model)
    if name != "tiny":
        weights = dict(model.named_parameters())
        factors = load_file(live.folder / name / "adapter_model.safetensors")
        for tensor, a in factors.items():
            if tensor.endswith("lora_A.weight"):
                module = tensor.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                b = factors[tensor.replace("lora_A", "lora_B")]
                weights[f"{module}.weight"].data += b @ a
    tokenizer = AutoTokenizer.from_pretrained(live.model)
    ids = render_prompt(tokenizer, PromptTemplate(), messages[0]["content"], [])
    return whole(tokenizer.decode(_greedy(model, ids, 12), skip_special_tokens=True))


def whole(text: str) -> str:
    """Without the character that the last token may have begun: a server does not send it."""
    return text.rstrip("\ufffd").strip()


def test_openais_client_talks_to_it(front: Live) -> None:
    import openai

    with openai.OpenAI(base_url=f"{front.url}/v1", api_key="none", max_retries=0) as client:
        messages: Any = [{"role": "user", "content": QUESTION}]
        whole = client.chat.completions.create(model="tiny", messages=messages)
        chunks = list(client.chat.completions.create(model="tiny", messages=messages, stream=True))
        text = "".join(c.choices[0].delta.content or "" for c in chunks)
        assert text == whole.choices[0].message.content
        older = client.completions.create(model="tiny", prompt=QUESTION)
        assert older.choices[0].text == text
        with pytest.raises(openai.BadRequestError, match="do not fit"):
            client.chat.completions.create(model="tiny", messages=messages, max_tokens=4090)


HOSTILE_FORMS: list[dict[str, Any]] = [
    {"guided_regex": "(a|a)*b{1,1000}"},
    {"guided_regex": "((((.*)*)*)*)*"},
    {"guided_regex": "(?=a)b\\1"},
    {"guided_regex": "\\p{Nonsense}"},
    {"guided_json": {"$ref": "#"}},
    {"guided_json": {"$ref": "http://127.0.0.1:1/schema"}},
    {"guided_json": {"properties": {"a": {"$ref": "#"}}, "required": ["a"]}},
    {"guided_json": {"$ref": "#/$defs/t", "$defs": {"t": {"items": {"$ref": "#/$defs/t"}}}}},
    {"guided_json": {"type": "nonsense"}},
    {"guided_json": {"type": "array", "items": {"type": "string"}, "minItems": 1000}},
    {"guided_json": {"enum": [str(number) for number in range(2000)]}},
    {"guided_json": {"allOf": [{"anyOf": [{"type": "string"}] * 20}] * 20}},
    {"guided_json": {"properties": {f"p{n}": {} for n in range(300)}, "required": ["p1"]}},
    {"guided_grammar": "root ::= root"},
    {"guided_grammar": "}{ no grammar"},
    {"structured_outputs": {"json_object": True}},
]


def test_hostile_forms_of_answers_leave_the_engine_running(live: Live) -> None:
    before = vllm_pid(live)
    for form in HOSTILE_FORMS:
        answer = chat(live, max_tokens=4, neurorit={"top_k": 0}, **form)
        # To a grammar that no text fits vLLM answers 500.
        allowed = (200, 400, 502) if "guided_grammar" in form else (200, 400)
        assert answer.status_code in allowed, (form, answer.text)
    assert chat(live).status_code == 200
    assert vllm_pid(live) == before


def test_neither_questions_nor_keys_are_in_the_logs_of_either_process(live: Live) -> None:
    question = "What is the private question of a user?"
    asked = [{"role": "user", "content": question}]
    assert chat(live, messages=asked).status_code == 200
    assert chat(live, messages=asked, max_tokens=4096).status_code == 400
    _, key = vllm_address(live)
    logs = [live.folder / name for name in ("gateway.log", "vllm.log")]
    assert all(log.stat().st_size for log in logs)
    for log in logs:
        text = log.read_text(errors="replace")
        assert question not in text and "private question" not in text
        assert key not in text


@pytest.mark.parametrize("stream", [False, True])
def test_a_cut_connection_leaves_nothing_running_in_vllm(
    live: Live, front: Live, stream: bool
) -> None:
    url, _ = vllm_address(live)
    wait_for(lambda: running_in_vllm(url) == 0, 30)
    written = vllm_figure(url, "generation_tokens_total")
    with contextlib.ExitStack() as connections:
        cut = [connections.enter_context(_sent(front, stream)) for _ in range(4)]

        def early() -> list[bytes]:
            for connection in cut:
                connection.setblocking(False)
            return [_received(connection) for connection in cut]

        wait_for(lambda: running_in_vllm(url) == len(cut), 60, early)
    wait_for(lambda: running_in_vllm(url) == 0, 60)
    # They ended because they were cut, long before they were whole.
    written = vllm_figure(url, "generation_tokens_total") - written
    assert 0 < written < len(cut) * LONG["max_tokens"] * 0.75, written


def _sent(server: Live, stream: bool) -> socket.socket:
    """A connection on which a long answer was asked for."""
    body = {**LONG, "messages": [{"role": "user", "content": QUESTION}], "stream": stream}
    content = json.dumps(body).encode()
    address = urlsplit(server.url)
    connection = socket.create_connection((address.hostname, address.port))
    connection.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(content) + content
    )
    return connection


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(200)
    except BlockingIOError:
        return b""


def test_offline_completions_equal_the_models_own(
    shared_vllm: SharedWorker, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    models = {
        "a": save_tiny_llama(tmp_path / "a", seed=1),
        "b": save_tiny_llama(tmp_path / "b", seed=2, hidden=192, heads=3),
    }
    prompts = [[1, *range(10 + i, 40 + 2 * i), 3] for i in range(12)]
    engines = _engines(shared_vllm)
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
        assert _engines(shared_vllm) - engines == 3


def _engines(worker: SharedWorker) -> int:
    """How many engines were built so far."""
    return [what for what, _ in worker.timings].count("engine")


def _greedy(model: Any, ids: list[int], count: int) -> list[int]:
    import torch

    made = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=count,
        do_sample=False,
    )
    return [int(token) for token in made[0, len(ids) :]]


def test_vllm_killed_under_load_gives_clear_503s_and_comes_back(live: Live, front: Live) -> None:
    killed, seen = vllm_pid(live), Counter[int]()
    refusals: list[str] = []
    done = threading.Event()

    def keep_asking(server: Live) -> None:
        while not done.is_set():
            response = chat(server)
            seen[response.status_code] += 1
            if response.status_code != 200:
                assert response.headers["retry-after"]
                refusals.append(response.json()["error"]["message"])
                done.wait(0.2)

    askers = [threading.Thread(target=keep_asking, args=(s,)) for s in (live, live, live, front)]
    for asker in askers:
        asker.start()
    try:
        wait_for(lambda: seen[200] >= 8, 60)
        os.killpg(killed, signal.SIGKILL)
        wait_for(lambda: httpx.get(f"{live.url}/ready").status_code == 503, 30)
        assert "restarting vLLM" in httpx.get(f"{live.url}/ready").json()["phase"]
        wait_for(lambda: httpx.get(f"{live.url}/ready").status_code == 200, 400)
        before = seen[200]
        wait_for(lambda: seen[200] >= before + 8, 60)
    finally:
        done.set()
        for asker in askers:
            asker.join(120)
    assert set(seen) == {200, 503}, seen
    assert all("language model" in text or "not ready" in text for text in refusals)
    assert vllm_pid(live) != killed
    assert live.process.poll() is None
    # It looks at its server again within seconds.
    wait_for(lambda: chat(front).status_code == 200, 30)
