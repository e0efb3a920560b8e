"""The demo's table from its YAML file: every figure and every line the same."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neurorit.eval.conditions import CONDITIONS
from neurorit.lab import base_model_dir
from neurorit.lab.world import write_world
from neurorit.pipelines.evaluation.command import evaluate_settings
from neurorit.pipelines.evaluation.evaluate import evaluate
from neurorit.pipelines.evaluation.settings import EvalSettings
from neurorit.retrieval.index.index import build_index
from neurorit.retrieval.noise.mix import mix
from neurorit.retrieval.noise.mixer import PoolSettings

QUESTIONS = 6


def stand_in(out: Path, strength: float) -> None:
    """A checkpoint that answers otherwise than the base: its weights with noise, no training."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(base_model_dir(), out)
    weights = load_file(out / "model.safetensors")
    torch.manual_seed(0)
    for tensor in weights.values():
        tensor += strength * tensor.std() * torch.randn_like(tensor)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("shared_vllm")
def test_the_demos_table_comes_again_from_its_file(tmp_path: Path) -> None:
    """What `demo` leaves is laid out without its training; the evaluation is the demo's own."""
    run, world = tmp_path / "demo", tmp_path / "demo" / "world"
    # Enough others, so that each question has an answer of its kind that could stand in its place.
    write_world(world, 0, train=20, test=QUESTIONS + 26)
    build_index(world / "corpus.jsonl", run / "index")
    mix(
        world / "questions-test.jsonl",
        run / "index",
        PoolSettings(within="split"),
        out=run / "examples-test",
    )
    for name in ("neuro-rit", "sft", "retrobust"):
        stand_in(run / name, 0.3)
    systems = {"base": base_model_dir(), "neuro-rit": run / "neuro-rit"}
    demo = evaluate(
        systems, run / "examples-test", CONDITIONS, engine="vllm", judge="lab", max_tokens=16,
        limit=QUESTIONS, sample="first", out=run / "report",
    ).report  # fmt: skip
    lines = (run / "report" / "predictions.jsonl").read_bytes()
    settings = EvalSettings.read("demo", {"root": str(run), "limit": QUESTIONS})
    # Every system is an engine to start: two are enough here.
    settings = replace(settings, systems={n: settings.systems[n] for n in systems})
    again: dict[str, Any] = dict(evaluate_settings(settings, tmp_path / "again", None))
    assert again["timings"]["answers_asked"] == QUESTIONS * 2 * len(CONDITIONS)
    for part in demo.keys() - {"timings", "manifest"}:
        assert again[part] == demo[part], part
    assert again["manifest"]["prompts"] == demo["manifest"]["prompts"]
    assert (tmp_path / "again" / "predictions.jsonl").read_bytes() == lines
    saved = json.loads((tmp_path / "again" / "report.json").read_text())
    assert saved["results"] == demo["results"]
    # The systems differ, so that equal figures say something.
    em = {row["system"]: row["em"] for row in demo["pooled"]}
    assert len(set(em.values())) > 1
