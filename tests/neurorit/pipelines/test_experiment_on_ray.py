"""An experiment on a Ray cluster: the table of one process, though a node is lost on the way."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from neurorit.core.errors import BadInput, NeuroritError
from neurorit.pipelines.experiment import cluster
from neurorit.pipelines.experiment import run as experiment
from neurorit.pipelines.experiment.document import Experiment
from tests.forks import command
from tests.ray_nodes import nodes_of_ray, started

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


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    with nodes_of_ray(cpus=0) as made:
        yield made


@pytest.fixture
def file(checkpoint: Path, examples_path: Path, tmp_path: Path) -> Path:
    recipe, path = tmp_path / "recipe.yaml", tmp_path / "experiment.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    # Other questions than those that the choice is made on: all but the last.
    test = tmp_path / "test.jsonl"
    test.write_bytes(b"".join(examples_path.read_bytes().splitlines(keepends=True)[:-1]))
    document = {
        "model": str(checkpoint),
        "examples": str(examples_path),
        "evaluate": str(examples_path),
        "recipe": str(recipe),
        "methods": ["neuro-rit"],
        "variants": {"long": {"method": "sft", "settings": {"steps": 200, "checkpoint_every": 10}}},
        "conditions": ["clean", "distractor-1"],
        "limit": 12,
        "max_tokens": 4,
        "select": {"clean_within": 1.0},
        "test": str(test),
        "engine": "transformers",
    }
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.filterwarnings("ignore")
def test_two_nodes_make_the_table_of_one_process_though_one_is_lost(
    nodes: Any, file: Path, tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as a task gets
    wanted = experiment.run(file, tmp_path / "alone")
    torch.set_num_threads(threads)
    first, out = started(lambda: nodes.add_node(num_cpus=1)), tmp_path / "spread"
    words = ["experiment", str(file), "--out", str(out), "--ray", nodes.address]
    process = command(words, tmp_path / "log")
    while process.is_alive() and not list(out.glob(".long-0.tuning/*/step-*")):
        time.sleep(0.02)
    # The long training has saved what it has: its node is lost, and another one comes.
    made = [*out.glob("*/manifest.json"), *out.rglob("parts/*/report.json")]
    finished = {path: path.stat().st_mtime_ns for path in made}
    nodes.remove_node(first, allow_graceful=False)
    assert not (out / "long-0").exists()
    started(lambda: nodes.add_node(num_cpus=1))
    process.join(400)
    assert process.exitcode == 0, (tmp_path / "log").read_text(encoding="utf-8")
    assert (out / "atlas-0" / "manifest.json") in finished
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    found = json.loads((out / "table.json").read_text(encoding="utf-8"))
    for name in ("rows", "paired", "selected", "test"):
        assert found[name] == json.loads(json.dumps(wanted[name])), name


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
    document["variants"]["long"]["settings"] = {"steps": 3}
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
