"""The gateway against vLLM alone: same prompts, same server, taken in turns in one run.

What the gateway adds to a request beside retrieval, how much throughput it costs, and what happens
when ten times more comes than can be answered. Run it alone on the machine.
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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import orjson
from _harness import Bench, options

from neurorit.lab import base_model_dir
from neurorit.lab.world import write_world
from neurorit.prompts import PromptTemplate, end_token_id, render_prompt
from retrieval.index import build_index
from retrieval.search import Retriever, SearchSettings
from serving.client import Sampling
from serving.engine import VllmServer, free_port
from serving.load import Answered, Asker, Load, by_clients, by_clock, percentile

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


def main() -> None:
    """Measure and print."""
    parser = options(__doc__ or "")
    parser.add_argument("--requests", type=int, default=160, help="of one turn of throughput")
    parser.add_argument("--turns", type=int, default=5, help="of each of the two")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--encoder", default="minilm+int8", help="of the gateway's index")
    parser.add_argument("--retriever", default="dense", help="dense, bm25 or hybrid")
    parser.add_argument("--overload-seconds", type=float, default=60.0)
    given = parser.parse_args()
    settings = {key: value for key, value in vars(given).items() if key != "json"}
    bench = Bench("serving", settings)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_measure(bench, given, Path(folder)))
    bench.finish(given.json)


async def _measure(bench: Bench, given: Any, folder: Path) -> None:
    index, questions = _data(folder, given.encoder)
    model = base_model_dir()
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
            Asker(url, questions, stream=False, options=tokens) as ours,
        ):
            await ours.check()
            await _latency(bench, plain, ours, len(questions))
            await _throughput(bench, plain, ours, given)
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


async def _throughput(bench: Bench, plain: Plain, ours: Asker, given: Any) -> None:
    rates: dict[str, list[float]] = {"vllm": [], "gateway": []}
    for turn in range(given.turns + 1):
        for system, send in (("vllm", plain.send), ("gateway", ours.send)):
            load = await by_clients(send, given.requests, given.concurrency)
            assert set(load.statuses) == {200}, load.statuses
            if turn:  # the first one warms up
                rates[system].append(load.per_second)
    for system, found in rates.items():
        bench.add(system, "throughput", statistics.median(found), "requests/s")
    ratios = [b / a for a, b in zip(rates["vllm"], rates["gateway"], strict=True)]
    bench.ratios["throughput_vs_vllm"] = statistics.median(ratios)


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


def _prompts(index: Path, questions: Sequence[str], model: Path, mode: str) -> list[list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    template = PromptTemplate.of_checkpoint(model)
    found = Retriever.load(index, SearchSettings(mode=mode)).search(questions, TOP_K)
    return [
        render_prompt(tokenizer, template, question, [hit.passage for hit in hits])
        for question, hits in zip(questions, found, strict=True)
    ]


def _end(model: Path) -> int:
    from transformers import AutoTokenizer

    return end_token_id(AutoTokenizer.from_pretrained(model))


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
