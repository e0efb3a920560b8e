"""lab world, train and judge: make the embedded default anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from neurorit.pipelines.progress import Reporter, reporting


def world(out: Path, seed: int, test: int) -> Mapping[str, Any]:
    """Write corpus.jsonl and the questions of three splits; returns their paths."""
    from neurorit.lab.world import write_world

    return {name: str(path) for name, path in write_world(out, seed, test=test).items()}


def train(out: Path, seed: int, device: str) -> Mapping[str, Any]:
    """Train the base model, or go on with it; returns the checkpoint's place."""
    from neurorit.lab.train import BaseRecipe, train_base

    with reporting() as report:
        recipe = replace(BaseRecipe(), seed=seed)
        checkpoint = train_base(out, recipe, device=device, report=_with_loss(report))
    return {"checkpoint": str(checkpoint), "reading": str(out / "reading")}


def judge(out: Path, reading: Path, seed: int) -> Mapping[str, Any]:
    """Train the judge from the reading model; returns the checkpoint's place."""
    from neurorit.core.errors import BadInput
    from neurorit.lab.judge import train_judge

    if not (reading / "model.safetensors").is_file():
        raise BadInput(f"‹reading={reading}›: no checkpoint there; run `neurorit-rag lab train`")
    with reporting() as report:
        checkpoint = train_judge(out, reading, seed=seed, report=_with_loss(report))
    return {"checkpoint": str(checkpoint)}


def _with_loss(report: Reporter) -> Callable[[str, int, int, float], None]:
    def tell(phase: str, step: int, steps: int, loss: float) -> None:
        report(f"{phase} (loss {loss:.2f})" if not report.keeps_lines else phase, step, steps)

    return tell
