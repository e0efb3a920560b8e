"""Traces of a server's answers, of passages that were retrieved, with the run's own settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from neurorit.core.endpoint.call_settings import CallSettings
from neurorit.core.errors import BadInput
from neurorit.data.example_files import write_examples
from neurorit.data.examples import Example, Passage
from neurorit.eval.run.runner import run_evaluation
from neurorit.eval.run.systems import parse_system
from neurorit.pipelines.evaluation.trace import trace_run
from tests.eval.chat_server import Reply, said, serving

CALLS = CallSettings(timeout=5.0, retries=0, pause=0.0, concurrency=2)
CORPUS = [
    Passage("p0", "Gold", "Person 0 was born in Town0x0."),
    Passage("p1", "Noise", "Person 0 was born in Lies0x0."),
]


def gullible(body: dict[str, Any]) -> Reply:
    """Believes the last town that it reads of."""
    return said((re.findall(r"born in (\w+)", body["messages"][0]["content"]) or ["nowhere"])[-1])


class Found:
    """An index that holds two passages."""

    def passage(self, identity: str) -> Passage:
        return next(p for p in CORPUS if p.id == identity)


def test_a_retrieved_passage_is_named_through_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples, out = tmp_path / "e.jsonl", tmp_path / "run"
    write_examples(examples, [Example("q0", "Where?", ("Town0x0",), (), {"gold": ["p0"]})])
    monkeypatch.setattr("neurorit.retrieval.index.index.Index.load", lambda directory: Found())
    with serving(gullible) as server:
        run_evaluation(
            [parse_system(f"a={server.url}#m")],
            examples,
            ["retrieved-2"],
            out,
            None,
            3,
            max_tokens=11,
            calls=CALLS,
            retrieve=lambda questions, k: [CORPUS[:k] for _ in questions],
        )
        options: tuple[Any, ...] = (examples, "a", None, None, 5, None, None)
        with pytest.raises(BadInput, match=r"lacks passage 'p0'.*index"):
            trace_run(out, f"{server.url}#m", *options)
        before = len(server.requests)
        found = trace_run(out, f"{server.url}#m", *options, index=tmp_path)
        asked = server.requests[before:]
    # The run's own length and seed, and its prompts: the answer comes again.
    assert all((r["max_tokens"], r["seed"]) == (11, 3) for r in asked)
    assert (found["traced"], found["with_culprit"], found["not_repeated"]) == (1, 1, 0)
    (trace,) = found["traces"]
    assert [(p["id"], p["culprit"]) for p in trace["passages"]] == [("p0", False), ("p1", True)]
    with pytest.raises(BadInput, match="retrieves by itself"):
        trace_run(out, "gateway+http://host", *options)
