"""Experiments whose tuning and answers are stood in for; their own tests run the real ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from neurorit.core.artifact import Manifest, writing
from neurorit.mining import mine as mining
from neurorit.pipelines import method as tuning
from neurorit.pipelines.evaluation import evaluate
from neurorit.pipelines.evaluation.evaluate import Evaluation
from tests.neurorit.pipelines.experiment.stand_in import FIGURES, bare, write


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    made: list[str] = []

    def mine(
        model: Path, _: Any, examples: Path, settings: Any, *, seed: int, out: Path, **__: Any
    ) -> None:
        made.append(out.name)
        inputs = tuning.inputs_of(model, examples=examples)
        manifest = Manifest("atlas", "test", tuning.plain(settings), seed, inputs)
        with writing(out, manifest, overwrite=True):
            pass

    def tune(
        model: Path, examples: Path, out: Path, method: str, atlas: Path | None, recipe: Path,
        assigned: Sequence[str], seed: int, overwrite: bool,
    ) -> None:  # fmt: skip
        from neurorit.pipelines.recipe import Recipe, parse_assignments
        from neurorit.tuning.settings import TuneSettings

        made.append(out.name)
        options = {**parse_assignments(assigned), "method": method}
        settings = Recipe(recipe).settings(TuneSettings, "tune", options, method)
        inputs = tuning.inputs_of(model, examples=examples, **({"atlas": atlas} if atlas else {}))
        manifest = Manifest("checkpoint", "test", tuning.plain(settings), seed, inputs)
        with writing(out, manifest, overwrite=overwrite):
            pass

    def choose_again(
        directory: Path, model: Path, examples: Path, settings: Any, out: Path, **__: Any
    ) -> None:
        mine(model, None, examples, settings, seed=0, out=out)
        made[-1] += f", from {directory.name}"

    def evaluated(
        models: Mapping[str, Path],
        examples: Path,
        conditions: Sequence[str],
        *,
        out: Path,
        retention: Any = None,
        limit: int | None = None,
        **_: Any,
    ) -> Evaluation:
        questions = f" {limit} questions" if limit else ""
        made.append(f"evaluated{questions} {out.name}: {' '.join(models)}")
        results, lines = [], []
        for system in models:
            name, _, seed = system.rpartition("-")
            name = name.partition("@")[0]
            clean, noisy, refused = FIGURES.get(system, FIGURES.get(name, FIGURES["own"]))
            step = 0.01 * int(seed) if seed.isdigit() else 0.0
            for condition in conditions:
                em = clean if condition == "clean" else noisy + step
                results.append(
                    {"system": system, "condition": condition, "em": em, "abstain_rate": refused}
                )
                for question in range(100):
                    right = question < round(100 * em)
                    where = {"system": system, "condition": condition, "id": str(question)}
                    lines.append(json.dumps({**where, "em": right}))
        out.mkdir(parents=True, exist_ok=True)
        (out / "predictions.jsonl").write_text("\n".join(lines))
        made.append(f"retention {retention}") if retention else None
        report: dict[str, Any] = {"results": results}
        if retention:
            report["frontier"] = [
                {
                    "system": system,
                    "robustness": FIGURES.get(bare(system), FIGURES["own"])[1],
                    "retention": 1.0
                    - float(system.partition("@")[2].rpartition("-")[0].lstrip("x") or 0),
                }
                for system in models
            ]
        return Evaluation(report, [], out)

    monkeypatch.setattr(mining, "mine", mine)
    monkeypatch.setattr(mining, "choose_again", choose_again)
    monkeypatch.setattr(tuning, "tune", tune)
    monkeypatch.setattr(evaluate, "evaluate", evaluated)
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    for name in ("train", "validation", "test"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"id": "{name}"}}\n')
    return write(tmp_path)
