"""Faults that somebody looking for them found: each is refused, counted or cut short."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from neurorit.core.endpoint.call_settings import CallSettings
from neurorit.core.endpoint.identity import identify
from neurorit.core.errors import BadInput
from neurorit.data.example_files import write_examples
from neurorit.eval.judges.endpoint import EndpointJudge
from neurorit.eval.judges.verdict_parsing import read_verdict
from neurorit.eval.metrics.settings import Analysis
from neurorit.eval.predictions import Item
from neurorit.eval.run.runner import run_evaluation
from neurorit.eval.run.systems import System, parse_system
from neurorit.eval.stats.intervals import rate_intervals
from tests.conftest import make_example
from tests.eval.chat_server import said, serving

QUICK = CallSettings(timeout=5.0, retries=0, pause=0.0, concurrency=4)


def test_few_clusters_of_equal_mean_are_no_certainty() -> None:
    right = [[float(i % 2)] for i in range(40)]
    (low, high) = rate_intervals(right, ["a"] * 20 + ["b"] * 20)[0]
    assert low < 0.1 and high > 0.9  # 0.476 to 0.524 before
    assert rate_intervals(right, ["a"] * 40)[0] == (0.0, 1.0)
    (low, high) = rate_intervals(right, [str(i // 4) for i in range(40)])[0]
    assert high - low > 2 * 1.96 * (0.25 / 40) ** 0.5


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
