"""`mine` and `tune` started in two processes, as an experiment with `processes: 2` starts them."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from neurorit.core.errors import NeuroritError
from neurorit.pipelines import method as tuning
from neurorit.pipelines.recipe import Recipe
from neurorit.pipelines.torchrun import launch
from neurorit.tuning.settings import TuneSettings

pytestmark = pytest.mark.slow

WORKER = """
import os, sys, time
from pathlib import Path
Path(sys.argv[1], f"started-{os.environ['RANK']}").write_text(str(os.getpid()))
time.sleep(300)
"""
EXPERIMENT = """
import sys
from neurorit.cli import end_on_signals
from neurorit.pipelines.torchrun import run
end_on_signals()
run(2, [f"{sys.argv[1]}/worker.py", sys.argv[1]])
"""
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


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda n: n.name
)
def test_processes_end_with_the_experiment(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    with open(tmp_path / "log", "wb") as log:
        experiment = subprocess.Popen(
            [sys.executable, "-c", EXPERIMENT, str(tmp_path)], stdout=log, stderr=log
        )
    started = [tmp_path / f"started-{rank}" for rank in (0, 1)]
    processes = [int(until(partial(text_of, path))) for path in started]
    experiment.send_signal(number)
    experiment.wait(90)
    # One that was killed can wait for nothing.
    until(lambda: number != signal.SIGKILL or not any(map(lives, processes)))
    assert not any(map(lives, processes)), (tmp_path / "log").read_text()


def until(found: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 90
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return value


def text_of(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def lives(process: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False
