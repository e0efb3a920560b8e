"""`mine` and `tune` started in two processes, as an experiment with `processes: 2` starts them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from neurorit.core.errors import NeuroritError
from neurorit.pipelines import method as tuning
from neurorit.pipelines.recipe import Recipe
from neurorit.pipelines.torchrun import launch
from neurorit.tuning.settings import TuneSettings

pytestmark = pytest.mark.slow

RECIPE = """
mine: {samples: 8, contexts: all, steps: 4, share: 0.2, resamples: 5, force: true}
tune: {batch_size: 2, accumulation: 1, stage1_steps: 2, steps: 3, max_length: 200}
"""


def test_what_processes_make_is_what_the_experiment_looks_for(
    checkpoint: Path, examples_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    recipe, atlas, out = (tmp_path / name for name in ("recipe.yaml", "atlas", "tuned"))
    recipe.write_text(RECIPE)
    read, own = Recipe(recipe), {"dense_layers": 1}
    mining = {"share": 0.25, "pipeline": 2}  # one line of both

    launch("mine", checkpoint, examples_path, atlas, recipe, 3, mining, 2)
    assert tuning.is_mined(atlas, checkpoint, examples_path, read, 3, mining)
    assert not tuning.is_mined(atlas, checkpoint, examples_path, read, 3)

    more = {"method": "neuro-rit", "atlas": atlas}
    launch("tune", checkpoint, examples_path, out, recipe, 3, own, 2, more)
    settings = read.settings(TuneSettings, "tune", {**own, "method": "neuro-rit"}, "neuro-rit")
    inputs = tuning.inputs_of(checkpoint, examples=examples_path, atlas=atlas)
    assert tuning.made_of(out, "checkpoint", settings, 3, inputs, processes=2)
    assert not tuning.made_of(out, "checkpoint", settings, 3, inputs, processes=1)


def test_one_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", shutil.which("false"))
    with pytest.raises(NeuroritError, match=r"tune into .*nowhere ended with exit code 1"):
        launch("tune", tmp_path, tmp_path, tmp_path / "nowhere", tmp_path, 3, {}, 2)
