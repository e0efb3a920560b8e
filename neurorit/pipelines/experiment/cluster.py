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
        base: Mapping[str, Path],
        trainings: Sequence[Training],
        recipe: Path,
        atlas: Callable[[int], Path],
        out: Path,
        report: Reporter,
    ) -> None:
        """Make every training, and what every system answers, the base's too, into `out`.

        atlas: where the neurons stand that the variants of a seed share.
        """
        (model,) = base.values()
        mined = {
            seed: self._task(mine_for_all, self.experiment, seed, model, recipe, atlas(seed))
            for seed in {one.seed for one in trainings if shares_atlas(one.variant)}
        }
        answered = [self._answered(name, place, out) for name, place in base.items()]
        tuned = []
        for one in trainings:
            after = [mined[one.seed]] if shares_atlas(one.variant) else []
            made = self._task(
                tune,
                self.experiment,
                one.variant,
                one.seed,
                model,
                recipe,
                one.out,
                atlas(one.seed),
                after=after,
            )
            tuned.append(made)
            answered.append(self._answered(one.named, one.out, out, after=[made]))
        self._wait([*mined.values(), *tuned, *answered], report)
        self._join({**base, **{one.named: one.out for one in trainings}}, out)

    def answer(
        self, systems: Mapping[str, Path], examples: Path, out: Path, report: Reporter
    ) -> None:
        """Make what systems answer to these examples, into `out`."""
        tasks = [self._answered(name, place, out, examples) for name, place in systems.items()]
        self._wait(tasks, report)
        self._join(systems, out)

    def _answered(
        self,
        name: str,
        place: Path,
        out: Path,
        examples: Path | None = None,
        after: Sequence[Any] = (),
    ) -> Any:
        asked = examples or self.experiment.evaluate
        return self._task(
            _answer, self.experiment, {name: place}, asked, out / _PARTS / name, after=after
        )

    def _task(self, work: Callable[..., None], *given: Any, after: Sequence[Any] = ()) -> Any:
        task = self.ray.remote(
            max_retries=-1, num_cpus=self.experiment.cpus, num_gpus=self.experiment.gpus
        )(_do)
        return task.remote(os.getcwd(), partial(work, *given), *after)

    def _wait(self, tasks: Sequence[Any], report: Reporter) -> None:
        """Until all are done; raises what one of them raised, and ends the others."""
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
