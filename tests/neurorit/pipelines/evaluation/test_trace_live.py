"""A trace of the lab model's wrong answers, with the real engine and a real ledger."""

from __future__ import annotations

from pathlib import Path

import pytest

from neurorit.lab import base_model_dir
from neurorit.lab.world import write_world
from neurorit.pipelines.evaluation.evaluate import evaluate
from neurorit.pipelines.evaluation.trace import trace_run
from neurorit.retrieval.index.index import build_index
from neurorit.retrieval.noise.mix import mix
from neurorit.retrieval.noise.mixer import PoolSettings


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("shared_vllm")
def test_the_passage_that_misled_the_model_is_named_with_its_reason(tmp_path: Path) -> None:
    world, examples, run = tmp_path / "world", tmp_path / "examples", tmp_path / "run"
    write_world(world, 0, train=20, test=40)
    build_index(world / "corpus.jsonl", tmp_path / "index")
    settings = PoolSettings(within="split")
    mix(world / "questions-test.jsonl", tmp_path / "index", settings, out=examples)
    model = base_model_dir()
    evaluate(
        {"base": model},
        examples,
        ["clean", "counterfactual-1"],
        engine="vllm",
        max_tokens=16,
        limit=24,
        sample="first",
        out=run,
    )
    found = trace_run(run, model, examples, "base", "counterfactual-1", None, 24, 16, None)
    assert found["traced"] >= 5
    # The engine is greedy and the prompts are the run's: every answer comes again.
    assert found["not_repeated"] == 0
    # One more passage than the gold one: without it the lab model answers as on clean.
    assert found["with_culprit"] >= 0.9 * found["traced"]
    assert set(found["culprit_kinds"]) == {"counterfactual"}
    culprits = [p for one in found["traces"] for p in one["passages"] if p["culprit"]]
    assert all("with its answer replaced by" in p["why"] for p in culprits)
