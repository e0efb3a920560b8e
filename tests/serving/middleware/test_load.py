"""Turns, the queue, refusals, searches made together, and what /metrics says of it all."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from neurorit.model.prompts import PromptTemplate
from neurorit.serving.gateway.app import Gateway, create_app
from neurorit.serving.rag.pipeline import RagPipeline
from neurorit.serving.rag.query_batching import SearchBatches
from tests.serving.fakes import Upstream, WordRetriever
from tests.serving.tiny_llama import tiny_tokenizer

QUESTION = {"messages": [{"role": "user", "content": "Where was Mira Solden born?"}]}


class SlowRetriever(WordRetriever):
    """Searches when it is let, and remembers how many queries came together."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.batches: list[int] = []

    def search(self, queries: Sequence[str], k: int) -> list[Any]:
        self.let.wait(20)
        self.batches.append(len(queries))
        return super().search(queries, k)


def served(retriever: Any, upstream: Upstream, **limits: int) -> tuple[Gateway, httpx.AsyncClient]:
    gateway = Gateway("tiny", "ready")
    gateway.pipeline = RagPipeline(
        retriever, tiny_tokenizer(), PromptTemplate(), upstream.client(), metrics=gateway.metrics
    )
    transport = httpx.ASGITransport(create_app(gateway, **limits))
    return gateway, httpx.AsyncClient(transport=transport, base_url="http://gateway")


def value(text: str, name: str) -> float:
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def test_more_than_turns_and_queue_are_refused_at_once_and_the_rest_is_answered() -> None:
    async def work() -> None:
        retriever = SlowRetriever()
        gateway, client = served(retriever, Upstream([["Karvel"]] * 6), running=2, queue=3)
        asks = [
            asyncio.create_task(client.post("/v1/chat/completions", json=QUESTION))
            for _ in range(9)
        ]
        done, _ = await asyncio.wait(asks, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        while len(done) < 4:
            more, _ = await asyncio.wait(
                [one for one in asks if one not in done],
                timeout=20,
                return_when=asyncio.FIRST_COMPLETED,
            )
            done |= more
        refused = [task.result() for task in done]
        assert [answer.status_code for answer in refused] == [429] * 4
        assert refused[0].headers["retry-after"] == "1"
        assert refused[0].json()["error"]["code"] == "overloaded"
        figures = gateway.metrics.text().decode()
        assert value(figures, "neurorit_requests_running") == 2
        assert value(figures, "neurorit_requests_waiting") == 3
        # Health is answered however busy the server is.
        assert (await client.get("/health")).status_code == 200
        retriever.let.set()
        answers = [task.result().status_code for task in (await asyncio.wait(asks))[0]]
        assert sorted(answers) == [200] * 5 + [429] * 4
        figures = (await client.get("/metrics")).text
        assert value(figures, "neurorit_requests_running") == 0
        assert value(figures, "neurorit_requests_waiting") == 0
        assert value(figures, "neurorit_request_seconds_count") == 5
        assert value(figures, "neurorit_first_text_seconds_count") == 5
        assert value(figures, 'neurorit_requests_total{route="/v1/chat/completions",st') == 9
        again = await client.post("/v1/chat/completions", json=QUESTION)
        assert again.status_code == 200

    asyncio.run(work())


def test_a_client_that_leaves_gives_its_turn_back() -> None:
    async def work() -> None:
        retriever = SlowRetriever()
        gateway, client = served(retriever, Upstream([["Karvel"]] * 2), running=1, queue=0)
        ask = asyncio.create_task(client.post("/v1/chat/completions", json=QUESTION))
        while value(gateway.metrics.text().decode(), "neurorit_requests_running") < 1:
            await asyncio.sleep(0.01)
        ask.cancel()
        await asyncio.wait([ask])
        assert value(gateway.metrics.text().decode(), "neurorit_requests_running") == 0
        retriever.let.set()
        answer = await client.post("/v1/chat/completions", json=QUESTION)
        assert answer.status_code == 200

    asyncio.run(work())


def test_abstentions_and_failures_of_the_model_are_counted() -> None:
    async def work() -> None:
        upstream = Upstream([[""]])
        gateway, client = served(WordRetriever(), upstream)
        assert (await client.post("/v1/chat/completions", json=QUESTION)).status_code == 200
        upstream.status = 500
        assert (await client.post("/v1/chat/completions", json=QUESTION)).status_code >= 500
        figures = gateway.metrics.text().decode()
        assert value(figures, "neurorit_abstentions_total") == 1
        assert value(figures, "neurorit_upstream_errors_total") == 1

    asyncio.run(work())


def test_every_request_is_counted_whatever_became_of_it() -> None:
    class Broken(WordRetriever):
        def search(self, queries: Sequence[str], k: int) -> list[Any]:
            raise RuntimeError("no index")

    async def work() -> None:
        gateway = Gateway("tiny", "ready")
        gateway.pipeline = RagPipeline(
            Broken(), tiny_tokenizer(), PromptTemplate(), Upstream([]).client()
        )
        app = create_app(gateway, api_keys=["k"], requests_per_minute=2)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            path, key = "/v1/chat/completions", {"Authorization": "Bearer k"}
            answers = [await client.post(path, json=QUESTION)]
            answers += [await client.post(path, json=QUESTION, headers=key) for _ in range(3)]
            statuses = [answer.status_code for answer in answers]
            assert statuses == [401, 500, 500, 429]
            figures = (await client.get("/metrics", headers=key)).text
        for status, number in Counter(statuses).items():
            label = f'neurorit_requests_total{{route="{path}",status="{status}"}}'
            assert value(figures, label) == number
        assert value(figures, "neurorit_requests_running") == 0
        for answer in answers:
            assert "default-src" in answer.headers["content-security-policy"]
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
            assert "no index" not in answer.text

    asyncio.run(work())


def test_queries_of_one_moment_are_one_search() -> None:
    async def work() -> None:
        seen: list[tuple[list[str], int]] = []
        first = asyncio.Event()

        async def search(queries: list[str], k: int) -> list[list[str]]:
            seen.append((queries, k))
            if len(seen) == 1:
                await first.wait()
            return [[f"{query}/{k}"] * k for query in queries]

        batches = SearchBatches(search)
        tasks = [asyncio.create_task(batches.find(f"q{i}", 2)) for i in range(1)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        tasks += [asyncio.create_task(batches.find(f"q{i}", 2)) for i in range(1, 6)]
        tasks.append(asyncio.create_task(batches.find("other", 3)))
        await asyncio.sleep(0)
        tasks[3].cancel()
        first.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [len(queries) for queries, _ in seen] == [1, 4, 1]
        assert found[1] == ("q1/2", "q1/2")
        assert found[-1] == ("other/3",) * 3

    asyncio.run(work())


def test_a_search_that_fails_fails_for_all_who_asked_and_the_next_one_works() -> None:
    async def work() -> None:
        broken = True

        async def search(queries: list[str], k: int) -> list[list[str]]:
            if broken:
                raise ValueError("no index")
            return [[query] for query in queries]

        batches = SearchBatches(search)
        found = await asyncio.gather(
            *(batches.find(f"q{i}", 1) for i in range(3)), return_exceptions=True
        )
        assert [str(one) for one in found] == ["no index"] * 3
        broken = False
        assert await batches.find("again", 1) == ("again",)

    asyncio.run(work())


@pytest.mark.parametrize("path", ["/metrics", "/v1/models", "/openapi.json"])
def test_figures_and_routes_ask_for_the_key(path: str) -> None:
    async def work() -> None:
        app = create_app(Gateway("tiny", "ready"), api_keys=["secret"])
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://gateway"
        ) as client:
            assert (await client.get(path)).status_code == 401
            allowed = await client.get(path, headers={"Authorization": "Bearer secret"})
            assert allowed.status_code == 200

    asyncio.run(work())
