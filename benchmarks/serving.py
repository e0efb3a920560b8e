"""The gateway against vLLM alone: same prompts, same server, taken in turns in one run.

What the gateway adds to a request beside retrieval, how much throughput it costs, and what happens
when ten times more comes than can be answered. A third system searches, renders and asks vLLM in
one program without a gateway, so that what the search costs and what the gateway costs are told
apart. Run it alone on the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import orjson
from harness.bench import Bench, options

from neurorit.lab import base_model_dir
from neurorit.lab.world import write_world
from neurorit.model.load import load_tokenizer
from neurorit.model.prompts import PromptTemplate, end_token_id, render_prompt
from neurorit.retrieval.index.index import build_index
from neurorit.retrieval.retriever import Retriever, SearchSettings
from neurorit.serving.backends.openai_client import CompletionClient, Sampling
from neurorit.serving.backends.vllm_server import VllmServer, free_port
from neurorit.serving.load_test import Answered, Asker, Load, Send, by_clients, by_clock, percentile
from neurorit.serving.rag.query_batching import SearchBatches
from neurorit.serving.rag.threads import few_threads, one_thread

TOP_K = 5
# Every prompt is computed: users bring other passages each time, a benchmark the same ones again.
UNCACHED = "--no-enable-prefix-caching"


class Plain:
    """vLLM itself, asked with prompts that were rendered before."""

    def __init__(self, server: VllmServer, prompts: Sequence[list[int]], fields: Any) -> None:
        self._bodies = [
            orjson.dumps({"model": server.model, "prompt": ids, **fields}) for ids in prompts
        ]
        self._url = f"{server.base_url}/v1/completions"
        self._key = server.api_key

    async def __aenter__(self) -> Plain:
        self._http = aiohttp.ClientSession(
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        )
        return self

    async def __aexit__(self, *details: object) -> None:
        await self._http.close()

    async def send(self, number: int) -> Answered:
        """One completion."""
        started = time.perf_counter()
        body = self._bodies[number % len(self._bodies)]
        async with self._http.post(self._url, data=body) as response:
            await response.read()
            return Answered(response.status, time.perf_counter() - started)


class WithoutGateway:
    """The same searches and prompts in this program: no request of its own, no checks, no page."""

    def __init__(
        self, server: VllmServer, index: Path, questions: Sequence[str], model: Path, given: Any
    ) -> None:
        self._retriever = Retriever.load(index, SearchSettings(mode=given.retriever))
        self._questions = questions
        self._tokenizer = load_tokenizer(model)
        self._template = PromptTemplate.of_checkpoint(model)
        self._sampling = Sampling(max_tokens=given.max_tokens)
        self._end = (end_token_id(self._tokenizer),)
        self._client = CompletionClient(server.base_url, server.api_key, server.model)
        self._searching, self._rendering = one_thread("searching"), one_thread("rendering")
        self._batches = SearchBatches(self._search)

    async def __aenter__(self) -> WithoutGateway:
        return self

    async def __aexit__(self, *details: object) -> None:
        await self._client.aclose()

    async def send(self, number: int) -> Answered:
        """One answer."""
        started = time.perf_counter()
        question = self._questions[number % len(self._questions)]
        hits = await self._batches.find(question, TOP_K)
        render = partial(render_prompt, self._tokenizer, self._template, question)
        loop = asyncio.get_running_loop()
        prompt = await loop.run_in_executor(self._rendering, render, [h.passage for h in hits])
        await self._client.complete(prompt, self._sampling, stop_token_ids=self._end)
        return Answered(200, time.perf_counter() - started)

    async def _search(self, queries: Sequence[str], k: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._searching, self._retriever.search, queries, k)


def main() -> None:
    """Measure and print."""
    parser = options(__doc__ or "")
    parser.add_argument("--latency", type=int, default=120, help="requests, one at a time")
    parser.add_argument("--requests", type=int, default=320, help="of one turn of throughput")
    parser.add_argument("--turns", type=int, default=8, help="of each of the three")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--encoder", default="minilm+int8", help="of the gateway's index")
    parser.add_argument("--retriever", default="dense", help="dense, bm25 or hybrid")
    models = parser.add_mutually_exclusive_group()
    models.add_argument(
        "--wider", type=int, default=1, help="a random model, so many times as wide as the lab's"
    )
    models.add_argument("--model", type=Path, help="in place of the lab's")
    parser.add_argument("--overload-seconds", type=float, default=60.0)
    given = parser.parse_args()
    settings = {key: value for key, value in vars(given).items() if key not in ("json", "model")}
    settings["model"] = given.model and str(given.model)
    bench = Bench("serving", settings)
    few_threads()  # as the gateway does
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_measure(bench, given, Path(folder)))
    bench.finish(given.json)


async def _measure(bench: Bench, given: Any, folder: Path) -> None:
    index, questions = _data(folder, given.encoder)
    model = given.model or _model(folder, given.wider)
    prompts = _prompts(index, questions, model, given.retriever)
    running = given.concurrency
    with (
        VllmServer(model, log=folder / "vllm.log", extra_args=[UNCACHED]) as vllm,
        _gateway(model, index, vllm, folder, given) as (url, process),
    ):
        fields = Sampling(max_tokens=given.max_tokens).as_request()
        tokens = {"max_tokens": given.max_tokens}
        async with (
            Plain(vllm, prompts, fields | {"stop_token_ids": [_end(model)]}) as plain,
            WithoutGateway(vllm, index, questions, model, given) as parts,
            Asker(url, questions, stream=False, options=tokens) as ours,
        ):
            await ours.check()
            await _latency(bench, plain, ours, given.latency)
            await _throughput(
                bench, {"vllm": plain.send, "parts": parts.send, "gateway": ours.send}, given
            )
            await _overload(bench, ours, process, given, running)


async def _latency(bench: Bench, plain: Plain, ours: Asker, count: int) -> None:
    """One request at a time: the same prompt to both, one after the other."""
    added, through, alone, search = [], [], [], []
    for number in range(20 + count):
        # Who is first changes, so that what the second one gains goes to both.
        if number % 2:
            direct, gateway = await plain.send(number), await ours.send(number)
        else:
            gateway, direct = await ours.send(number), await plain.send(number)
        if number < 20:
            continue  # warm
        assert direct.status == gateway.status == 200 and gateway.retrieval is not None
        added.append(gateway.seconds - gateway.retrieval - direct.seconds)
        through.append(gateway.seconds)
        alone.append(direct.seconds)
        search.append(gateway.retrieval)
    for system, metric, values in (
        ("vllm", "latency", alone),
        ("gateway", "latency", through),
        ("gateway", "retrieval", search),
        ("gateway", "added", added),
    ):
        for percent in (50, 90, 99):
            bench.add(system, f"{metric}_p{percent}", 1000 * percentile(values, percent), "ms")
    bench.ratios["added_latency_ms_p50"] = 1000 * statistics.median(added)


async def _throughput(bench: Bench, systems: Mapping[str, Send], given: Any) -> None:
    rates: dict[str, list[float]] = {system: [] for system in systems}
    names = list(systems)
    for turn in range(given.turns + 1):
        # Who is first changes, so that a machine that gets slower or quicker does so for all.
        for system in names[turn % len(names) :] + names[: turn % len(names)]:
            load = await by_clients(systems[system], given.requests, given.concurrency)
            assert set(load.statuses) == {200}, load.statuses
            if turn:  # the first one warms up
                rates[system].append(load.per_second)
    for system, found in rates.items():
        bench.add(system, "throughput", statistics.median(found), "requests/s")
    for name, rival, ours in (
        ("throughput_vs_vllm", "vllm", "gateway"),
        ("throughput_vs_parts", "parts", "gateway"),
        ("parts_vs_vllm", "vllm", "parts"),
    ):
        ratios = [b / a for a, b in zip(rates[rival], rates[ours], strict=True)]
        bench.ratios[name] = statistics.median(ratios)


async def _overload(
    bench: Bench, ours: Asker, process: subprocess.Popen[bytes], given: Any, running: int
) -> None:
    """Ten times the rate that it bears, by a clock; then the same load as before."""
    before = await by_clients(ours.send, given.requests * 2, running)
    usual = percentile([a.seconds for a in before.good], 95)
    memory = _memory(process.pid)
    load: Load = await by_clock(ours.send, 10 * before.per_second, given.overload_seconds)
    grown = _memory(process.pid) - memory
    after = await by_clients(ours.send, given.requests * 2, running)
    admitted = [a.seconds for a in load.good]
    for status, number in load.statuses.items():
        bench.add("overload", f"status_{status}", number, "requests")
    bench.add("overload", "usual_p95", 1000 * usual, "ms")
    bench.add("overload", "admitted_p95", 1000 * percentile(admitted, 95), "ms")
    bench.add("overload", "memory_growth", grown / 2**20, "MiB")
    bench.add("overload", "throughput_before", before.per_second, "requests/s")
    bench.add("overload", "throughput_during", load.per_second, "requests/s")
    bench.add("overload", "throughput_after", after.per_second, "requests/s")
    bench.ratios["overload_p95_vs_usual"] = percentile(admitted, 95) / usual
    bench.ratios["overload_other_statuses"] = sum(
        number for status, number in load.statuses.items() if status not in (200, 429, 503)
    )
    bench.ratios["overload_memory_vs_before"] = (memory + grown) / memory
    bench.ratios["throughput_after_vs_before"] = after.per_second / before.per_second


def _data(folder: Path, encoder: str) -> tuple[Path, list[str]]:
    write_world(folder / "world", 0, test=120)
    build_index(folder / "world" / "corpus.jsonl", folder / "index", encoder=encoder)
    lines = (folder / "world" / "questions-test.jsonl").read_text().splitlines()
    return folder / "index", [json.loads(line)["question"] for line in lines]


def _model(folder: Path, wider: int) -> Path:
    """The lab's model, or random weights of its form in which a token costs wider^2 as much."""
    if wider == 1:
        return base_model_dir()
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(base_model_dir())
    heads = ("num_attention_heads", "num_key_value_heads")
    for name in ("hidden_size", "intermediate_size", *heads):
        setattr(config, name, wider * getattr(config, name))
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder / "model")
    load_tokenizer(base_model_dir()).save_pretrained(folder / "model")
    return folder / "model"


def _prompts(index: Path, questions: Sequence[str], model: Path, mode: str) -> list[list[int]]:
    tokenizer = load_tokenizer(model)
    template = PromptTemplate.of_checkpoint(model)
    found = Retriever.load(index, SearchSettings(mode=mode)).search(questions, TOP_K)
    return [
        render_prompt(tokenizer, template, question, [hit.passage for hit in hits])
        for question, hits in zip(questions, found, strict=True)
    ]


def _end(model: Path) -> int:
    return end_token_id(load_tokenizer(model))


@contextlib.contextmanager
def _gateway(
    model: Path, index: Path, vllm: VllmServer, folder: Path, given: Any
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    port = free_port()
    command = [sys.executable, "-m", "neurorit.cli", "serve", "--model", str(model)]
    command += ["--index", str(index), "--port", str(port), "--top-k", str(TOP_K)]
    command += ["--upstream", vllm.base_url, "--retriever", given.retriever]
    command += ["--running", str(given.concurrency), "--queue", str(given.concurrency // 4)]
    environment = os.environ | {"NEURORIT_UPSTREAM_KEY": vllm.api_key}
    with open(folder / "gateway.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/ready", trust_env=False).status_code == 200:
                    break
            if process.poll() is not None:
                raise SystemExit((folder / "gateway.log").read_text())
            time.sleep(0.2)
        yield url, process
    finally:
        process.terminate()
        process.wait(90)


def _memory(pid: int) -> int:
    """Resident bytes of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
