"""Faults that somebody looking for them found: each is refused, counted or cut short."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from neurorit.core.endpoint.call_settings import CallSettings
from neurorit.core.endpoint.identity import identify, warning
from neurorit.core.endpoint.reply_cache import Cache
from neurorit.core.errors import BadInput
from neurorit.data.example_files import write_examples
from neurorit.eval.judges.endpoint import EndpointJudge
from neurorit.eval.judges.judge import CachedJudge
from neurorit.eval.judges.verdict_parsing import read_verdict
from neurorit.eval.metrics.settings import Analysis
from neurorit.eval.predictions import Item, Verdict
from neurorit.eval.run.runner import run_evaluation
from neurorit.eval.run.systems import System, parse_system
from neurorit.eval.stats.intervals import rate_intervals
from tests.conftest import make_example
from tests.eval.chat_server import said, serving

QUICK = CallSettings(timeout=5.0, retries=0, pause=0.0, concurrency=4)


def test_few_clusters_of_equal_mean_are_no_certainty() -> None:
    right = [[float(i % 2)] for i in range(40)]
    (low, high) = rate_intervals(right, ["a"] * 20 + ["b"] * 20)[0]
    alone = rate_intervals(right)[0]
    assert low <= alone[0] + 1e-9 and high >= alone[1] - 1e-9  # 0.476 to 0.524 before
    assert rate_intervals(right, ["a"] * 40)[0] == (0.0, 1.0)
    (low, high) = rate_intervals(right, [str(i // 4) for i in range(40)])[0]
    assert high - low >= alone[1] - alone[0] - 1e-9
    unlike = [[float(i < 15 or 20 <= i < 25)] for i in range(40)]  # 15 and 5 of 20
    (low, high) = rate_intervals(unlike, ["a"] * 20 + ["b"] * 20)[0]
    assert low < 0.1 and high > 0.9


@pytest.mark.parametrize("clusters", range(2, 11))
@pytest.mark.parametrize("sizes", ["equal", "unequal"])
def test_a_rate_of_few_clusters_covers(clusters: int, sizes: str) -> None:
    """`benchmarks/intervals.py` has the whole table; here 300 draws of one setting each."""
    rng = np.random.default_rng([clusters, sizes == "equal"])
    held = 0
    for _ in range(300):
        drawn = rng.geometric(1 / 7, clusters) if sizes == "unequal" else np.full(clusters, 7)
        labels = [str(i) for i, size in enumerate(drawn) for _ in range(size)]
        shares = np.repeat(rng.beta(2, 2, clusters), drawn)
        low, high = rate_intervals((rng.random(len(shares)) < shares)[:, None], labels)[0]
        held += low <= 0.5 <= high
    assert held / 300 >= 0.915  # three standard errors below 0.95


@pytest.mark.parametrize("titles", ["distinct", "one"])
def test_titles_as_clusters(tmp_path: Path, titles: str) -> None:
    examples = [make_example(i) for i in range(8)]
    examples = [
        replace(e, meta={"title": f"t{i}" if titles == "distinct" else "t"})
        for i, e in enumerate(examples)
    ]
    write_examples(tmp_path / "e.jsonl", examples)
    with serving(lambda body: said("x")) as server:
        system = parse_system(f"a={server.url}#m")

        def run() -> dict[str, Any]:
            return run_evaluation(
                [system, replace(system, name="b")],
                tmp_path / "e.jsonl",
                ["clean", "distractor-2"],
                tmp_path / "run",
                None,
                0,
                calls=QUICK,
                analysis=Analysis(cluster="title"),
            )

        if titles == "one":
            with pytest.raises(BadInput, match="all questions have the same, 't'"):
                run()
            assert not server.requests  # nothing was paid for
        else:
            assert run()["results"][0]["n"] == 8


def test_a_log_probability_that_is_no_number_says_nothing() -> None:
    def reply(logprob: float, text: str) -> dict[str, Any]:
        first = {"top_logprobs": [{"token": "Yes", "logprob": logprob}]}
        return {"choices": [{"message": {"content": text}, "logprobs": {"content": [first]}}]}

    assert read_verdict(reply(float("nan"), "No")) == "wrong"
    assert read_verdict(reply(-0.1, "No")) == "right"


def test_a_dead_judge_is_not_asked_to_the_end() -> None:
    asked = []

    def dead(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        raise httpx.ConnectError("gone")

    judge = EndpointJudge("http://judge/v1", "j", calls=QUICK, transport=httpx.MockTransport(dead))
    items = [Item("q?", ("a",), str(i)) for i in range(300)]
    assert judge.decide(items) == ["unscored"] * 300
    assert len(asked) <= 10 + 2 * QUICK.concurrency
    assert judge.failure


def test_a_hanging_judge_is_given_up_after_its_first_calls(tmp_path: Path) -> None:
    asked = []

    def hanging(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            asked.append(request)
        raise httpx.ReadTimeout("no byte")

    calls = replace(QUICK, retries=2)
    transport = httpx.MockTransport(hanging)
    judge = EndpointJudge("http://judge/v1", "j", calls=calls, transport=transport)
    items = [Item("q?", ("a",), str(i)) for i in range(300)]
    with Cache(tmp_path) as store:
        assert CachedJudge(judge, store).decide(items) == ["unscored"] * 300
    # Once to see what it offers, and once for each item that was under way.
    assert len(asked) <= 3 * (1 + 2 * QUICK.concurrency)
    assert "ReadTimeout" in judge.failure


def test_two_runs_that_share_a_cache_pay_once(tmp_path: Path) -> None:
    """A gateway that finds other passages each time: each answer is read in its own."""
    write_examples(tmp_path / "e.jsonl", [make_example(i) for i in range(12)])
    drawn = iter(range(1_000))

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        name = f"Town{next(drawn)}"
        passage = {"id": name, "title": "t", "text": f"It is {name}."}
        return said(name, neurorit={"passages": [passage], "abstained": False})

    judged: list[Item] = []

    class Judge:
        name = fingerprint = "j"

        def decide(self, items: Sequence[Item], progress: Any = None) -> list[Verdict]:
            time.sleep(0.05)
            judged.extend(items)
            return ["wrong"] * len(items)

    reports: dict[str, Any] = {}
    with serving(answer, seconds=0.02) as server:
        server.cards = [{"id": "m", "neurorit": {"digest": "1"}}]

        def run(name: str, cache: str = "shared") -> None:
            reports[name] = run_evaluation(
                [System("rag", "gateway", url=server.url.removesuffix("/v1"))],
                tmp_path / "e.jsonl",
                ["retrieved-1"],
                tmp_path / name,
                Judge(),
                0,
                calls=QUICK,
                cache=tmp_path / cache,
            )

        threads = [threading.Thread(target=run, args=(name,)) for name in ("one", "two")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.requests) == 12
        assert len(judged) == 12
        assert all(r["results"][0]["faithfulness"] == 1.0 for r in reports.values())
        run("three", cache="own")
        assert len(server.requests) == 24
        # The journal of one run beside the cache of others: no answer is read in their passages.
        run("three", cache="shared")
        assert len(server.requests) == 24
        assert "faithfulness" not in reports["three"]["results"][0]


def test_weights_replaced_under_a_running_server_are_not_taken_for_its_own(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"one")
    with serving(lambda body: said("x")) as server:
        server.cards = [{"id": "m", "root": str(model), "owned_by": "vllm"}]

        def start(seconds: float) -> None:
            started = time.time() + seconds
            server.routes["/metrics"] = f"process_start_time_seconds {started}\n".encode()

        start(1.0)  # after the files were written
        before = identify(server.url, "m", None)
        assert before.known == "weights"
        start(-60.0)
        changed = identify(server.url, "m", None)
        assert changed.known == "name" and changed.text != before.text
        assert "name" in (warning("a", changed) or "")
        start(-30.0)  # another start, and no telling of what
        assert identify(server.url, "m", None).text != changed.text
        start(1.0)  # started anew: it serves what stands there
        assert identify(server.url, "m", None) == before
        (model / "model.safetensors").write_bytes(b"two")
        assert identify(server.url, "m", None).text != before.text


def test_another_chat_template_is_another_system(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    with serving(lambda body: said("x")) as server:
        server.cards = [{"id": "m", "root": str(model)}]
        before = identify(server.url, "m", None)
        (model / "chat_template.jinja").write_text("{{ messages[0].content }}")
        assert identify(server.url, "m", None) != before
        # One that was named to the server stands in no folder: it is seen by what it makes.
        server.cards[0]["owned_by"] = "vllm"
        server.routes["/tokenize"] = {"tokens": [1, 2, 3]}
        before = identify(server.url, "m", None)
        assert identify(server.url, "m", None) == before
        server.routes["/tokenize"] = {"tokens": [1, 2, 4]}
        assert identify(server.url, "m", None) != before
        assert not server.requests


def test_an_address_with_a_query_asks_the_right_path() -> None:
    seen = []

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        seen.append(body)
        return said("x")

    with serving(answer) as server:
        server.cards = [{"id": "m", "digest": "d1"}]
        assert json.loads(identify(f"{server.url}?api-version=1", "m", None).text)["digest"] == "d1"
    assert System("g", "gateway", url="http://h:1/?v=1").api == "http://h:1/v1?v=1"
    assert System("g", "gateway", url="http://h:1/v1/").api == "http://h:1/v1"
    assert System("e", "endpoint", url="http://h/v1?v=1").api == "http://h/v1?v=1"
