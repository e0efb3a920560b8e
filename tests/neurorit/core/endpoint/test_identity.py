"""Who answers at an address: a changed model is asked anew, the same one never twice."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from neurorit.core.endpoint.call_settings import CallSettings
from neurorit.core.endpoint.identity import identify
from neurorit.core.endpoint.reply_cache import Cache
from neurorit.core.errors import BadInput
from neurorit.eval.run.runner import run_evaluation
from neurorit.eval.run.systems import System, parse_system
from tests.eval.chat_server import Reply, said, serving

QUICK = CallSettings(timeout=5.0, retries=0, pause=0.0, concurrency=2)


def card(**facts: Any) -> dict[str, Any]:
    return {"id": "m", "object": "model", "created": time.time_ns(), **facts}


def run(url: str, examples: Path, out: Path) -> dict[str, Any]:
    system = parse_system(f"a={url}#m")
    return run_evaluation([system], examples, ["clean"], out, None, 0, calls=QUICK)


def test_another_model_behind_the_address_is_asked_and_the_same_one_is_not(
    examples_file: Path, tmp_path: Path
) -> None:
    name = "first"
    with serving(lambda body: said(name)) as server:
        server.cards = [card(root="checkpoints/first")]
        one = run(server.url, examples_file, tmp_path / "run")
        server.cards = [card(root="checkpoints/first")]  # created at another moment
        run(server.url, examples_file, tmp_path / "run")
        assert len(server.requests) == 6
        name = "second"
        server.cards = [card(root="checkpoints/second")]
        run(server.url, examples_file, tmp_path / "run")
        assert len(server.requests) == 12
        assert "second" in (tmp_path / "run" / "predictions.jsonl").read_text()
    described = one["manifest"]["systems"]["a"]
    assert described["known_by"] == "name"
    assert described["request"] == {"max_tokens": 24, "temperature": 0, "seed": 0}
    assert "another --out" in one["manifest"]["warnings"][0]
    # The server is gone: what it answered can be read without it.
    after = run(server.url, examples_file, tmp_path / "run")
    assert after["timings"]["answers_asked"] == 0


def test_weights_on_this_machine_are_hashed(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    with serving(lambda body: said("x")) as server, Cache(tmp_path) as cache:
        server.cards = [card(root=str(model))]
        before = identify(server.url, "m", None, cache)
        assert before.known == "weights"
        assert identify(server.url, "", None) == before
        (model / "config.json").write_text('{"changed": 1}')
        assert identify(server.url, "m", None) != before
        assert identify(server.url, "other", None).known == "address"
        # A server that says nothing for a moment is the one that was here before.
        server.cards = []
        assert identify(server.url, "m", None, cache) == before


def test_a_gateway_is_known_by_its_digest_and_scored_on_its_own_passages(
    examples_file: Path, tmp_path: Path
) -> None:
    """Two gateways find other passages: each answer is looked up in those that its model saw."""

    def gateway(town: str) -> Any:
        def answer(body: dict[str, Any]) -> Reply:
            passage = {"id": town, "title": "t", "text": f"They live in {town}."}
            return said(town, neurorit={"passages": [passage], "abstained": False})

        return answer

    with serving(gateway("Aville")) as first, serving(gateway("Bville")) as second:
        first.cards = [card(neurorit={"digest": "1"})]
        second.cards = [card(neurorit={"digest": "2"})]
        systems = [
            System(name, "gateway", url=server.url.removesuffix("/v1"))
            for name, server in (("a", first), ("b", second))
        ]
        args = (systems, examples_file, ["retrieved-1"], tmp_path / "run", None, 0)
        report = run_evaluation(*args, calls=QUICK)
        assert [row["misled_rate"] for row in report["results"]] == [1.0, 1.0]
        assert [row["faithfulness"] for row in report["results"]] == [1.0, 1.0]
        assert report["manifest"]["warnings"] == []
        second.cards = [card(neurorit={"digest": "another index"})]
        run_evaluation(*args, calls=QUICK)
        assert (len(first.requests), len(second.requests)) == (6, 12)


def test_a_field_set_to_nothing_is_left_out_of_requests(
    examples_file: Path, tmp_path: Path
) -> None:
    with serving(lambda body: said("x")) as server:
        system = System("a", "endpoint", url=server.url, request={"seed": None, "top_p": 0.5})
        report = run_evaluation([system], examples_file, ["clean"], tmp_path, None, 5, calls=QUICK)
    assert all("seed" not in r and r["top_p"] == 0.5 for r in server.requests)
    assert report["manifest"]["engine"] == {"max_tokens": 24}


def test_two_runs_do_not_write_in_one_place(examples_file: Path, tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> Reply:
        with pytest.raises(BadInput, match="another run is writing there"):
            run(server.url, examples_file, tmp_path / "run")
        return said("x")

    with serving(answer) as server:
        run(server.url, examples_file, tmp_path / "run")
    assert len(server.requests) == 6
