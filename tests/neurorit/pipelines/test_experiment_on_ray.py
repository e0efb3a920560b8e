"""An experiment whose pieces are made by tasks: the table of one process. Ray is stood for here."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from neurorit.core.errors import BadInput, NeuroritError
from neurorit.pipelines.experiment import cluster
from neurorit.pipelines.experiment import run as experiment
from neurorit.pipelines.experiment.document import Experiment

pytestmark = pytest.mark.slow

RECIPE = {
    "mine": {
        "samples": 4, "contexts": "all", "steps": 2, "share": 0.2, "resamples": 5, "force": True,
        "device": "cpu",
    },
    "tune": {
        "batch_size": 2, "stage1_steps": 2, "steps": 4, "max_length": 200, "dense_layers": 1,
        "selectivity_samples": 2, "device": "cpu",
    },
}  # fmt: skip


@pytest.fixture
def file(checkpoint: Path, examples_path: Path, tmp_path: Path) -> Path:
    recipe, path = tmp_path / "recipe.yaml", tmp_path / "experiment.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    document = {
        "model": str(checkpoint),
        "examples": str(examples_path),
        "evaluate": str(examples_path),
        "recipe": str(recipe),
        "methods": ["neuro-rit"],
        "variants": {"long": {"method": "sft", "settings": {"steps": 3}}},
        "conditions": ["clean", "distractor-1"],
        "limit": 12,
        "max_tokens": 4,
        "select": {"clean_within": 1.0},
        "test": str(examples_path),
        "engine": "transformers",
    }
    path.write_text(yaml.safe_dump(document))
    return path


class _Ray:
    """Stands for Ray: it runs each task at once, here, and knows what tasks asked for."""

    class exceptions:
        class RayError(Exception):
            cause: Exception | None = None

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.ended: list[Any] = []

    def remote(self, **options: Any) -> Callable[[Callable[..., None]], Any]:
        self.asked.append(options)
        return lambda work: SimpleNamespace(remote=partial(self._run, work))

    def _run(self, work: Callable[..., None], place: str, piece: Any, *after: Any) -> Any:
        failed = self.exceptions.RayError("ray::_do()\n  File ...\nValueError: of another kind")
        try:
            work(place, piece, *after)
        except NeuroritError as error:
            failed.cause = error
        except ValueError:
            pass
        else:
            return None
        return failed

    def wait(self, tasks: list[Any]) -> tuple[list[Any], list[Any]]:
        return tasks[:1], tasks[1:]

    def get(self, tasks: list[Any]) -> None:
        for one in tasks:
            if one is not None:
                raise one

    def cancel(self, task: Any) -> None:
        self.ended.append(task)


def test_what_tasks_made_is_what_the_experiment_finds(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = yaml.safe_load(file.read_text())
    document |= {"cpus": 2, "gpus": 0.5}
    file.write_text(yaml.safe_dump(document))
    wanted = experiment.run(file, tmp_path / "alone")
    ray, told = _Ray(), []
    monkeypatch.setattr(cluster, "connected", lambda address: nullcontext(ray))
    tune = cluster.tune
    monkeypatch.setattr(cluster, "tune", lambda *given: told.append(given[1].name) or tune(*given))
    found = experiment.run(file, tmp_path / "spread", "there")
    for name in ("rows", "paired", "selected", "test"):
        assert json.dumps(found[name]) == json.dumps(wanted[name]), name
    assert told == ["neuro-rit", "long"]
    # What the variants share, two trainings, three systems, and the chosen with the base.
    assert len(ray.asked) == 6 + 1 + len(wanted["selected"])
    assert ray.asked[0] == {"max_retries": -1, "num_cpus": 2, "num_gpus": 0.5}


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (BadInput("no such file"), BadInput, "^no such file"),
        (ValueError("of another kind"), NeuroritError, "^ray: a task failed: ValueError: of an"),
    ],
)
def test_why_a_task_failed_is_told(
    file: Path, error: Exception, kind: type[Exception], said: str
) -> None:
    def fail() -> None:
        raise error

    ray = _Ray()
    made = cluster.Cluster(ray, Experiment.read(file))
    with pytest.raises(kind, match=said):
        made._wait([made._task(fail), "not begun"], lambda *_: None)  # type: ignore[arg-type]
    assert ray.ended == ["not begun"]
