"""experiment: variants x seeds, tuned and evaluated, in one table with intervals over seeds.

What is there already is not made again, so a killed experiment goes on. With `select`, one variant
of each method is chosen on `evaluate` by the declared rule, and only the chosen are run on `test`,
once: another choice later is refused, since it would have been made with the test in sight.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neurorit.core.artifact import Manifest, hash_inputs, read_manifest, write_manifest
from neurorit.core.atomic_files import write_text
from neurorit.core.errors import BadInput, NeuroritError, is_out_of_memory
from neurorit.eval.metrics.settings import BASE
from neurorit.pipelines import method as tuning
from neurorit.pipelines.experiment.cluster import Cluster, Training, on_cluster
from neurorit.pipelines.experiment.document import Experiment
from neurorit.pipelines.experiment.pictures import draw_accuracy, draw_frontier
from neurorit.pipelines.experiment.table import (
    frontier_of,
    markdown,
    paired,
    rows,
)
from neurorit.pipelines.experiment.work import (
    evaluate,
    mine_for_all,
    settings_of,
    shares_atlas,
    tune,
)
from neurorit.pipelines.progress import reporting
from neurorit.pipelines.recipe import LAB_RECIPE, Recipe, find_recipe

_TABLE = "table.json"
# 1 - 0.98 is more than 0.02: what keeps to the rule to the digit is chosen.
_ROUNDING = 1e-9
_TOLD = 3  # failures that a message quotes


def run(path: Path, out: Path, ray: str = "") -> Mapping[str, Any]:
    """Run or go on with the experiment in `path`.

    ray: a cluster's address, whose nodes then tune and evaluate (`experiment.cluster`). Writes
    table.json, table.md, table.svg and where retention is measured frontier.svg into `out`.
    """
    packaged = LAB_RECIPE.parent / "experiments" / f"{path}.yaml"
    if not path.exists() and packaged.is_file():
        path = packaged
    from neurorit.mining.settings import MiningSettings
    from neurorit.model.distributed import count

    if count() > 1:
        raise BadInput(
            f"experiment starts its processes itself: write `processes: {count()}` into {path} and "
            "start it without torchrun"
        )
    experiment = Experiment.read(path)
    experiment.check_data(path)
    recipe = find_recipe(experiment.recipe)
    for variant in experiment.all_variants():
        settings_of(variant, recipe).check(atlas=True, adapter=False)
        Recipe(recipe).settings(MiningSettings, "mine", variant.mine)
    out.mkdir(parents=True, exist_ok=True)
    maker = _Maker(experiment, recipe, _model(experiment.model), out)
    names = [variant.name for variant in experiment.all_variants()]
    with ExitStack() as stack:
        if ray:
            maker.cluster = stack.enter_context(on_cluster(ray, experiment))
        table: dict[str, Any] = {
            "experiment": path.name,
            **maker.measured(names, experiment.seeds, experiment.evaluate, "evaluation"),
            "selected": None,
            "test": None,
        }
        if experiment.select:
            table["selected"] = _select(table["rows"], experiment)
        if experiment.test is not None:
            table["test"] = _test_once(maker, experiment.test, table["selected"])
    _record(experiment, path, maker.model, table, out)
    write_text(out / _TABLE, json.dumps(table, indent=2) + "\n")
    write_text(out / "table.md", markdown(table))
    draw_accuracy(table, out / "table.svg")
    families = {variant.name: variant.family for variant in experiment.all_variants()}
    draw_frontier(table, families, out / "frontier.svg")
    _show(table)
    return {**table, "table": str(out / "table.md"), "report": str(out / "evaluation")}


@dataclass
class _Maker:
    """What makes an experiment's trainings and measures them, by a cluster where there is one.

    made: names of the trainings that are there; mined: seed -> why its shared atlas could not be
    mined, None where it was.
    """

    experiment: Experiment
    recipe: Path
    model: Path
    out: Path
    cluster: Cluster | None = None
    made: set[str] = field(default_factory=set)
    mined: dict[int, NeuroritError | None] = field(default_factory=dict)

    def trainings(self, names: Sequence[str], seeds: Sequence[int]) -> list[Training]:
        """The named variants with these seeds."""
        return [
            Training(variant, seed, name, self.out / name)
            for seed in seeds
            for variant in self.experiment.all_variants()
            if variant.name in names
            for name in [f"{variant.name}-{seed}"]
        ]

    def tuned(
        self, trainings: Sequence[Training], asked: tuple[Path, Path] | None = None
    ) -> dict[str, Path]:
        """The base and the trainings' checkpoints, made where they are not there.

        asked: examples, and the folder into which a cluster also puts what all answer to them.
        """
        systems = {BASE: self.model, **{one.named: one.out for one in trainings}}
        fresh = [one for one in trainings if one.named not in self.made]
        if self.cluster is not None:
            with reporting() as report:
                self.cluster.tune_and_answer(
                    systems, fresh, self.recipe, self._atlas, asked, report
                )
        from neurorit.model.load import release

        failed: dict[str, NeuroritError] = {}
        # What a cluster made is found there.
        for number, one in enumerate(fresh, start=1):
            place = f"{number} of {len(fresh)}"
            try:
                self._tune(one, place)
            except Exception as error:
                if not isinstance(error, NeuroritError) and not is_out_of_memory(error):
                    raise
                with reporting() as report:
                    report.say(f"training {place}: {one.named} failed: {error}")
                failed[one.named] = _bare(error)
                release()
            else:
                self.made.add(one.named)
        if failed:
            raise _of_all(failed, len(fresh))
        return systems

    def _tune(self, one: Training, place: str) -> None:
        atlas = self._atlas(one.seed)
        if shares_atlas(one.variant):
            if one.seed not in self.mined:
                try:
                    mine_for_all(self.experiment, one.seed, self.model, self.recipe, atlas)
                    self.mined[one.seed] = None
                except NeuroritError as error:
                    self.mined[one.seed] = _bare(error)
            if (failure := self.mined[one.seed]) is not None:
                raise failure  # and is not mined in vain for every variant
        # Variants that differ in their rates alone choose the same neurons; the nodes of a cluster,
        # which work beside each other, have chosen for each training alone.
        own = self.out / f"{one.named}-atlas"
        if not own.is_dir() and self.cluster is None:
            own = self.out / f"{one.variant.family}-{one.seed}-atlas"
        tune(
            self.experiment,
            one.variant,
            one.seed,
            self.model,
            self.recipe,
            one.out,
            atlas,
            own,
            place,
        )

    def measured(
        self, names: Sequence[str], seeds: Sequence[int], examples: Path, place: str
    ) -> dict[str, Any]:
        """The figures of variants and their pairs, from an evaluation in the folder `place`."""
        from neurorit.model.load import release

        experiment, out = self.experiment, self.out / place
        systems = self.tuned(self.trainings(names, seeds), (examples, out))
        release()  # vLLM is another process and takes nearly the whole GPU
        with reporting() as report:
            document = evaluate(
                experiment,
                systems,
                examples,
                out,
                report,
                experiment.retention_settings(),
                seeds,
            )
        held = rows(document, names, seeds, experiment.conditions)
        answers, rivals = out / "predictions.jsonl", experiment.rivals(names)
        return {
            "rows": held,
            "frontier": frontier_of(held),
            "paired": paired(answers, names, seeds, experiment.conditions, rivals),
        }

    def _atlas(self, seed: int) -> Path:
        return self.out / f"atlas-{seed}"


def _bare(error: Exception) -> NeuroritError:
    """What an error says, without the frames behind it, in which a whole model may be held."""
    kind = BadInput if isinstance(error, BadInput) else NeuroritError
    return kind(error.marked if isinstance(error, NeuroritError) else str(error))


def _of_all(failed: Mapping[str, NeuroritError], trainings: int) -> NeuroritError:
    """What failed of so many trainings, after all others are done."""
    told = "; ".join(f"{name}: {error.marked}" for name, error in list(failed.items())[:_TOLD])
    more = f"; and {len(failed) - _TOLD} more" if len(failed) > _TOLD else ""
    kept = "" if len(failed) == trainings else " The others are done and kept."
    bad = all(isinstance(error, BadInput) for error in failed.values())
    return (BadInput if bad else NeuroritError)(
        f"{len(failed)} of {trainings} trainings failed: {told}{more}.{kept} Mend what failed and "
        "start the experiment again"
    )


def _select(table: Sequence[Mapping[str, Any]], experiment: Experiment) -> dict[str, str | None]:
    """Method -> its best variant by the declared rule; None where no variant keeps to it.

    Where the rule says `each: variant`, variant -> the best of its rates.
    """
    by_name = {row["variant"]: row["figures"] for row in table}
    base = by_name[BASE]["clean, EM"]["mean"]
    chosen: dict[str, str | None] = {}
    best: dict[str, float] = {}
    for variant in experiment.all_variants():
        kind = variant.family if experiment.select.get("each") == "variant" else variant.method
        figures = by_name[variant.name]
        chosen.setdefault(kind, None)
        clean, refused = figures["clean, EM"]["mean"], figures["clean, refused"]["mean"]
        value = figures["distractor mean, EM"]["mean"]
        if None in (base, clean, refused, value):
            continue  # what was not scored keeps to no rule
        near = base - clean <= experiment.select.get("clean_within", 1.0) + _ROUNDING
        answers = refused <= experiment.select.get("refused_clean", 1.0) + _ROUNDING
        if near and answers and value > best.get(kind, -1.0):
            best[kind] = value
            chosen[kind] = variant.name
    return chosen


def _test_once(maker: _Maker, test: Path, selected: Mapping[str, str | None]) -> dict[str, Any]:
    """Evaluate the chosen on test; refuses when the test was used for another choice before."""
    experiment = maker.experiment
    names = [name for name in selected.values() if name is not None]
    seeds = experiment.test_seeds or experiment.seeds
    asked = [experiment.limit_of(test), list(experiment.conditions), experiment.max_tokens]
    touched = {"selected": names, "seeds": list(seeds), "asked": asked, **hash_inputs(test=test)}
    mark = maker.out / "test-touched.json"
    before = json.loads(mark.read_text(encoding="utf-8")) if mark.is_file() else None
    _check_choice(mark, before, touched)
    trainings = maker.trainings(names, seeds)
    maker.tuned(trainings)
    # One that was changed under its name is another choice.
    touched["made"] = {one.named: _made_of(one.out) for one in trainings}
    _check_choice(mark, before, touched)
    write_text(mark, json.dumps(touched) + "\n")
    return {"touched": touched, **maker.measured(names, seeds, test, "test")}


def _check_choice(mark: Path, before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    """Raise BadInput where test questions were used for anything else than what is to be asked."""
    if before is not None and any(before.get(name) != value for name, value in now.items()):
        raise BadInput(
            f"{mark}: the test questions were used for another choice already; a new choice needs "
            "new test questions, or a new ‹out› if you accept that they were seen"
        )


def _made_of(checkpoint: Path) -> str:
    """Digest of the settings and inputs that a checkpoint was tuned with."""
    made = read_manifest(checkpoint, "checkpoint", verify=False)
    told = json.dumps([made.settings, made.inputs], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def _record(
    experiment: Experiment, path: Path, model: Path, table: Mapping[str, Any], out: Path
) -> None:
    """What was run on what, by which rule it was chosen, and what the test questions were for."""
    from neurorit.model.checkpoint import weights_digest

    inputs = hash_inputs(
        experiment=path, examples=experiment.examples, evaluate=experiment.evaluate
    )
    manifest = Manifest(
        kind="experiment",
        command=f"neurorit-rag experiment {path.name}",
        settings=tuning.plain(experiment),
        inputs={**inputs, "model": weights_digest(model)},
        made={
            "selected": table["selected"],
            "test": table["test"] and table["test"]["touched"],
            "settings_from": experiment.settings_from or None,
        },
    )
    write_manifest(out, manifest, {})


def _show(table: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.markdown import Markdown

    Console(file=sys.stderr).print(Markdown(markdown(table)))


def _model(name: str) -> Path:
    from neurorit.lab import LAB, base_model_dir

    if name != LAB:
        from neurorit.model.checkpoint import checkpoint_dir

        return checkpoint_dir(name)
    return base_model_dir()
