"""An experiment's trainings and evaluations as tasks of a Ray cluster, on one machine or many.

A task does what the experiment would do itself and leaves it where the experiment looks for it, so
that afterwards everything is there already, and the table is the same. A task whose node is lost
is run again on another one and goes on from what it had saved. All nodes need one file system with
the same paths.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from neurorit.core.errors import NeuroritError
from neurorit.eval.metrics.settings import BASE
from neurorit.pipelines.experiment.document import Experiment, Variant
from neurorit.pipelines.experiment.work import evaluate, mine_for_all, shares_atlas, tune
from neurorit.pipelines.progress import Reporter, reporting
from neurorit.retrieval.ray_cluster import cause_of, connected

_PREDICTIONS = "predictions.jsonl"
_PARTS = "parts"


@dataclass(frozen=True)
class Training:
    """A variant tuned with a seed; named: what the system is called; out: its checkpoint."""

    variant: Variant
    seed: int
    named: str
    out: Path


@dataclass(frozen=True)
class Cluster:
    """A connected Ray cluster that makes the pieces of an experiment."""

    ray: Any
    experiment: Experiment

    def tune_and_answer(
        self,
        systems: Mapping[str, Path],
        trainings: Sequence[Training],
        recipe: Path,
        atlas: Callable[[int], Path],
        asked: tuple[Path, Path] | None,
        report: Reporter,
    ) -> None:
        """Make every training, and where something is asked what every system answers.

        systems: the base and all checkpoints; trainings: those of them that may not be there yet;
        atlas: where the neurons stand that the variants of a seed share; asked: examples, and the
        folder where all answers go.
        """
        model = systems[BASE]
        mined = {
            seed: self._task(mine_for_all, self.experiment, seed, model, recipe, atlas(seed))
            for seed in {one.seed for one in trainings if shares_atlas(one.variant)}
        }
        tuned = {
            one.named: self._task(
                tune,
                self.experiment,
                one.variant,
                one.seed,
                model,
                recipe,
                one.out,
                atlas(one.seed),
                one.out.with_name(f"{one.named}-atlas"),
                after=[mined[one.seed]] if shares_atlas(one.variant) else [],
            )
            for one in trainings
        }
        answered = [
            self._answered(name, place, *asked, after=[tuned[name]] if name in tuned else [])
            for name, place in systems.items()
            if asked
        ]
        self._wait([*mined.values(), *tuned.values(), *answered], report)
        if asked:
            self._join(systems, asked[1])

    def _answered(
        self,
        name: str,
        place: Path,
        examples: Path,
        out: Path,
        after: Sequence[Any] = (),
    ) -> Any:
        return self._task(
            _answer, self.experiment, {name: place}, examples, out / _PARTS / name, after=after
        )

    def _task(self, work: Callable[..., None], *given: Any, after: Sequence[Any] = ()) -> Any:
        task = self.ray.remote(
            max_retries=-1, num_cpus=self.experiment.cpus, num_gpus=self.experiment.gpus
        )(_do)
        return task.remote(os.getcwd(), partial(work, *given), *after)

    def _wait(self, tasks: Sequence[Any], report: Reporter) -> None:
        """Until all are done; raises what one of them raised, and ends the others."""
        if not tasks:
            return
        waiting, done = list(tasks), 0
        report("trainings and evaluations", done, len(tasks))
        try:
            while waiting:
                ready, waiting = self.ray.wait(waiting)
                self.ray.get(ready)
                done += len(ready)
                report("trainings and evaluations", done, len(tasks))
        except self.ray.exceptions.RayError as error:
            for task in waiting:
                self.ray.cancel(task)
            reason = getattr(error, "cause", None)
            if isinstance(reason, NeuroritError):
                raise reason from error
            raise NeuroritError(f"‹ray›: a task failed: {cause_of(error)}") from error

    def _join(self, systems: Mapping[str, Path], out: Path) -> None:
        """Put what the systems answered into one journal, where the evaluation goes on from."""
        from neurorit.eval.predictions import Journal, read_predictions, writing_alone

        with writing_alone(out):
            journal = Journal(out / _PREDICTIONS)
            for name in systems:
                found = read_predictions(out / _PARTS / name / _PREDICTIONS)
                journal.append(one for key, one in found.items() if key not in journal.answered)


@contextmanager
def on_cluster(address: str, experiment: Experiment) -> Iterator[Cluster]:
    """The cluster at an address, `auto`, or `local`; raises as `connected` does."""
    with connected(address) as ray:
        yield Cluster(ray, experiment)


def _do(place: str, work: Callable[[], None], *_after: None) -> None:
    """Run a piece where the experiment was started, so that paths mean the same."""
    os.chdir(place)
    work()


def _answer(experiment: Experiment, systems: Mapping[str, Path], asked: Path, out: Path) -> None:
    with reporting() as report:
        evaluate(experiment, systems, asked, out, report)
