"""Servers as systems and as judges, over real HTTP: backoff, resuming, failures, the gateway."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from neurorit.core.endpoint.call_settings import CallSettings
from neurorit.core.endpoint.client import Endpoint, retry_after
from neurorit.core.endpoint.replies import CallFailed
from neurorit.core.errors import BadInput, NeuroritError
from neurorit.data.example_files import write_examples
from neurorit.data.examples import Example, Passage
from neurorit.eval.conditions import CONDITIONS
from neurorit.eval.judges.endpoint import EndpointJudge
from neurorit.eval.predictions import read_predictions
from neurorit.eval.run.runner import run_evaluation
from neurorit.eval.run.systems import System, parse_system
from tests.conftest import make_example
from tests.eval.chat_server import Reply, said, serving

QUICK = CallSettings(timeout=5.0, retries=2, pause=0.0, concurrency=4)


def answer_by_prompt(body: dict[str, Any]) -> Reply:
    """Right where the prompt holds the answer; otherwise something that depends on it alone."""
    turn = body["messages"][-1]["content"]
    gold = re.search(r"Town\d+x0", turn)
    return said(gold[0] if gold else hashlib.sha256(turn.encode()).hexdigest()[:6])


def test_backoff_has_jitter_and_honours_retry_after() -> None:
    pauses: list[float] = []
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    replies = iter(
        [
            httpx.Response(429, headers={"Retry-After": "7"}),
            httpx.Response(503, headers={"Retry-After": moment}),
            httpx.Response(500),
            httpx.Response(429, headers={"Retry-After": "9999"}),
            httpx.Response(200, text="<html>"),
            httpx.Response(200, json={"ok": 1}),
        ]
    )
    endpoint = Endpoint(
        "http://server/v1",
        settings=CallSettings(retries=5, pause=1.0),
        transport=httpx.MockTransport(lambda request: next(replies)),
        wait=pauses.append,
    )
    assert endpoint.chat({}, lambda body: body.get("ok")) == 1
    assert pauses[0] == 7.0
    assert 30.0 < pauses[1] <= 40.0
    assert 2.0 <= pauses[2] <= 4.0
    assert pauses[3] == 60.0
    assert 8.0 <= pauses[4] <= 16.0


@pytest.mark.parametrize("header", [None, "", "soon", "nan", "-3", "inf"])
def test_unusable_retry_after_means_none(header: str | None) -> None:
    assert retry_after(header) == 0.0


def test_a_refused_call_is_final() -> None:
    calls = []

    def refuse(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        return httpx.Response(404, json={"error": {"message": "no model m"}})

    endpoint = Endpoint("http://server/v1", settings=QUICK, transport=httpx.MockTransport(refuse))
    with pytest.raises(CallFailed, match="HTTP 404: no model m"):
        endpoint.chat({}, lambda body: body)
    assert len(calls) == 1


def test_systems_get_the_same_prompts_and_a_cache_is_shared(
    examples_file: Path, tmp_path: Path
) -> None:
    with serving(answer_by_prompt) as server:
        systems = [parse_system(f"{name}={server.url}#{name}") for name in ("a", "b")]
        args = (systems, examples_file, ["clean", "distractor-2"])

        def evaluate(out: str) -> dict[str, Any]:
            return run_evaluation(
                *args, tmp_path / out, None, 0, calls=QUICK, cache=tmp_path / "cache"
            )

        one = evaluate("one")
        turns = {
            name: sorted(r["messages"][0]["content"] for r in server.requests if r["model"] == name)
            for name in ("a", "b")
        }
        assert turns["a"] == turns["b"] and len(turns["a"]) == 12
        assert all(r["temperature"] == 0 for r in server.requests)
        described = one["manifest"]["systems"]
        digests = {record["prompts"] for record in described.values()}
        assert digests == {one["manifest"]["prompts"]["turns"]}
        assert {"python", "neurorit-rag", "httpx"} <= set(one["manifest"]["versions"])
        two = evaluate("two")
        assert len(server.requests) == 24
    assert two["timings"]["answers_asked"] == 0
    assert two["results"] == one["results"]
    assert one["results"][0]["em"] == 1.0


def test_failed_calls_stop_the_run_and_are_all_that_is_asked_again(
    examples_file: Path, tmp_path: Path
) -> None:
    broken = True

    def answer(body: dict[str, Any]) -> Reply:
        if broken and "Person 3" in body["messages"][0]["content"]:
            return 500, {"error": {"message": "out of memory"}}
        return answer_by_prompt(body)

    with serving(answer) as server:
        system = parse_system(f"a={server.url}#m")
        args = ([system], examples_file, ["clean"], tmp_path / "run", None, 0)
        with pytest.raises(NeuroritError, match=r"1 of 6 calls failed.*'q3'.*out of memory"):
            run_evaluation(*args, calls=QUICK)
        broken = False
        before = len(server.requests)
        report = run_evaluation(*args, calls=QUICK)
        assert len(server.requests) == before + 1
    assert report["results"][0]["n"] == 6


def test_a_lost_server_is_not_asked_everything(examples_file: Path, tmp_path: Path) -> None:
    with serving(lambda body: (401, {"error": {"message": "wrong key"}})) as server:
        system = parse_system(f"a={server.url}#m")
        with pytest.raises(NeuroritError, match="wrong key"):
            run_evaluation([system], examples_file, CONDITIONS, tmp_path, None, 0, calls=QUICK)
        assert len(server.requests) < 48


def test_the_gateway_retrieves_by_itself(examples_file: Path, tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> Reply:
        number = re.findall(r"\d+", body["messages"][0]["content"])[0]
        k = body["neurorit"]["top_k"]
        gold = {"id": f"{number}-gold-0", "title": "t", "text": f"Town{number}x0", "score": 1.0}
        field = {"passages": [gold][:k], "abstained": k == 0}
        return said("I could not find it." if k == 0 else f"Town{number}x0", neurorit=field)

    with serving(answer) as server:
        system = System("rag", "gateway", url=server.url.removesuffix("/v1"))
        report = run_evaluation(
            [system], examples_file, ["closed-book", "retrieved-3"], tmp_path, None, 0, calls=QUICK
        )
    closed, retrieved = report["results"]
    assert (closed["abstain_rate"], retrieved["em"]) == (1.0, 1.0)
    lines = [json.loads(x) for x in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert lines[1]["passages"] == [{"id": "0-gold-0", "kind": "gold"}]
    with pytest.raises(BadInput, match="retrieves by itself"):
        system.check(["distractor-2"])
    with pytest.raises(BadInput, match="environment variable") as error:
        System("rag", "gateway", url="http://me:secret@host").check([])
    assert "secret" not in str(error.value)


def test_other_servers_forms_of_an_answer(examples_file: Path, tmp_path: Path) -> None:
    def in_parts(body: dict[str, Any]) -> Reply:
        turn = body["messages"][-1]["content"]
        gold = re.search(r"Town\d+x0", turn)
        parts = [{"type": "text", "text": gold[0] if gold else ""}]
        message = {"content": parts, "reasoning_content": "They ask for a town."}
        return 200, {"choices": [{"message": message, "finish_reason": "stop"}]}

    def only_thought(body: dict[str, Any]) -> Reply:
        message = {"content": None, "reasoning_content": "They ask"}
        return 200, {"choices": [{"message": message, "finish_reason": "length"}]}

    with serving(in_parts) as server:
        system = parse_system(f"a={server.url}#m")
        args = ([system], examples_file, ["clean"])
        report = run_evaluation(*args, tmp_path / "parts", None, 0, calls=QUICK)
    assert report["results"][0]["em"] == 1.0
    with serving(only_thought) as server:
        system = parse_system(f"a={server.url}#m")
        # No abstention: the model never came to its answer.
        with pytest.raises(
            NeuroritError, match=r"6 of 6 replies cannot be scored \(6 cut.*raise max_tokens"
        ):
            run_evaluation([system], *args[1:], tmp_path / "thought", None, 0, calls=QUICK)


def test_retrieved_passages_are_shown_in_ranked_order(
    examples_file: Path, examples: list[Example], tmp_path: Path
) -> None:
    def retrieve(questions: list[str], k: int) -> list[list[Passage]]:
        found = {e.question: [p for p in e.passages if p.kind != "random"] for e in examples}
        return [found[q][::-1][-k:] for q in questions]

    with serving(answer_by_prompt) as server:
        args = ([parse_system(f"a={server.url}#m")], examples_file, ["retrieved-2"])
        report = run_evaluation(*args, tmp_path / "a", None, 0, calls=QUICK, retrieve=retrieve)  # type: ignore[arg-type]
        with pytest.raises(BadInput, match="needs a retriever"):
            run_evaluation(*args, tmp_path / "b", None, 0, calls=QUICK)
    assert report["results"][0]["em"] == 1.0
    line = json.loads((tmp_path / "a" / "predictions.jsonl").read_text().splitlines()[0])
    assert [p["kind"] for p in line["passages"]] == [None, "gold"]


def test_a_gateway_that_showed_nothing_is_not_said_to_have_shown_ours(
    examples_file: Path, examples: list[Example], tmp_path: Path
) -> None:
    def retrieve(questions: list[str], k: int) -> list[list[Passage]]:
        found = {e.question: [p for p in e.passages if p.kind == "gold"] for e in examples}
        return [found[q][:k] for q in questions]

    def held_back(body: dict[str, Any]) -> Reply:
        return said("I could not find it.", neurorit={"passages": [], "abstained": True})

    with serving(answer_by_prompt) as server, serving(held_back) as other:
        gateway = System("g", "gateway", url=other.url.removesuffix("/v1"))
        args = ([parse_system(f"a={server.url}#m"), gateway], examples_file, ["retrieved-1"])
        run_evaluation(*args, tmp_path, None, 0, calls=QUICK, retrieve=retrieve)  # type: ignore[arg-type]
    lines = [json.loads(x) for x in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    shown = {line["system"]: [p["kind"] for p in line["passages"]] for line in lines}
    assert shown == {"a": ["gold"], "g": []}


def _failing(body: dict[str, Any]) -> Reply:
    """A judge's server that fails for good on a fifth of the answers, in four ways."""
    turn = body["messages"][0]["content"]
    roll = hashlib.sha256(turn.encode()).digest()[0]
    if roll >= 51:
        answer = re.search(r"<answer>(.*)</answer>", turn)
        assert answer is not None
        return said("Yes" if answer[1].startswith("Town") else "No")
    if roll % 4 == 0:
        time.sleep(1.0)  # the judge gives up before
    ways: list[Reply] = [
        said("Yes"),
        (200, b"<html>garbage"),
        said("I cannot help with that."),
        (500, {"error": {"message": "broken"}}),
    ]
    return ways[roll % 4]


def test_a_failing_judge_leaves_unscored_and_totals_add_up(tmp_path: Path) -> None:
    write_examples(tmp_path / "e.jsonl", [make_example(i) for i in range(40)])
    calls = CallSettings(timeout=0.3, retries=1, pause=0.0, concurrency=16)
    names = ["closed-book", "clean", "distractor-2"]
    with serving(answer_by_prompt) as server, serving(_failing) as judge_server:
        system = parse_system(f"a={server.url}#m")

        def evaluate(**more: Any) -> dict[str, Any]:
            judge = EndpointJudge(judge_server.url, "j", calls=calls)
            args = ([system], tmp_path / "e.jsonl", names, tmp_path / "run", judge, 0)
            return run_evaluation(*args, calls=QUICK, **more)

        with pytest.raises(NeuroritError, match=r"no verdict on \d+ of 120.*max_unscored"):
            evaluate()
        assert not (tmp_path / "run" / "report.json").exists()
        report = evaluate(max_unscored=1.0)
    counts = report["verdicts"]
    assert sum(counts.values()) == 120
    assert 0 < counts["unscored"] < 60
    for row in report["results"]:
        assert sum(row["verdicts"].values()) == row["n"] == 40
        assert row["unscored"] == row["verdicts"]["unscored"]
    lines = (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["verdict"] == "unscored" for line in lines) == counts["unscored"]


def test_how_sure_the_judge_is_stands_in_journal_and_report(tmp_path: Path) -> None:
    write_examples(tmp_path / "e.jsonl", [make_example(i) for i in range(6)])

    def judged(body: dict[str, Any]) -> Reply:
        top = [{"token": "Yes", "logprob": math.log(0.6)}, {"token": "No", "logprob": -1.6}]
        chances = {"content": [{"top_logprobs": top}]}
        return 200, {"choices": [{"message": {"content": "Yes"}, "logprobs": chances}]}

    with serving(lambda body: said("x")) as server, serving(judged) as judge_server:

        def evaluate() -> dict[str, Any]:
            judge = EndpointJudge(judge_server.url, "j", calls=QUICK)
            system = parse_system(f"a={server.url}#m")
            args = ([system], tmp_path / "e.jsonl", ["clean"], tmp_path / "run", judge, 0)
            return run_evaluation(*args, calls=QUICK)

        wanted = 0.6 / (0.6 + math.exp(-1.6))
        path = tmp_path / "run" / "predictions.jsonl"
        for _ in range(2):
            row = evaluate()["results"][0]
            assert (row["judge"], row["judge_confidence"]) == (1.0, pytest.approx(wanted))
            assert row["ci95"]["judge_confidence"][0] < wanted
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            assert all(line["confidence"] == pytest.approx(wanted) for line in lines)
        # A journal of before, which said nothing of it, is read.
        path.write_text("".join(json.dumps(x) + "\n" for x in lines if x.pop("confidence")))
        assert all(p.confidence is None for p in read_predictions(path).values())
