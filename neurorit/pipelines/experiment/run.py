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
from pathlib import Path
from typing import Any

from neurorit.core.artifact import Manifest, hash_inputs, read_manifest, write_manifest
from neurorit.core.atomic_files import write_text
from neurorit.core.errors import BadInput
from neurorit.pipelines import method as tuning
from neurorit.pipelines.experiment.cluster import Cluster, Training, on_cluster
from neurorit.pipelines.experiment.document import Experiment
from neurorit.pipelines.experiment.table import (
    BASE,
    frontier_of,
    markdown,
    paired,
    plot,
    rows,
)
from neurorit.pipelines.experiment.work import evaluate, settings_of, tune
from neurorit.pipelines.progress import Reporter, reporting
from neurorit.pipelines.recipe import LAB_RECIPE, Recipe, find_recipe

_TABLE = "table.json"
# 1 - 0.98 is more than 0.02: what keeps to the rule to the digit is chosen.
_ROUNDING = 1e-9


def run(path: Path, out: Path, ray: str = "") -> Mapping[str, Any]:
    """Run or go on with the experiment in `path`.

    ray: a cluster's address, whose nodes then tune and evaluate (`experiment.cluster`). Writes
    table.json, table.md and table.svg into `out`.
    """
    packaged = LAB_RECIPE.parent / "experiments" / f"{path}.yaml"
    if not path.exists() and packaged.is_file():
        path = packaged
    from neurorit.mining.settings import MiningSettings
    from neurorit.model.distributed import count
    from neurorit.model.load import release

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
    model = _model(experiment.model)
    trainings = [
        Training(variant, seed, name, out / name)
        for seed in experiment.seeds
        for variant in experiment.all_variants()
        for name in [f"{variant.name}-{seed}"]
    ]
    systems = {BASE: model, **{one.named: one.out for one in trainings}}
    names = [variant.name for variant in experiment.all_variants()]

    def atlas(seed: int) -> Path:
        return out / f"atlas-{seed}"

    with ExitStack() as stack:
        cluster = stack.enter_context(on_cluster(ray, experiment)) if ray else None
        if cluster is not None:
            with reporting() as report:
                cluster.tune_and_answer(
                    {BASE: model}, trainings, recipe, atlas, out / "evaluation", report
                )
        # What a cluster made is found there.
        for one in trainings:
            tune(experiment, one.variant, one.seed, model, recipe, one.out, atlas(one.seed))
        release()  # vLLM is another process and takes nearly the whole GPU
        report = stack.enter_context(reporting())
        document = evaluate(
            experiment,
            systems,
            experiment.evaluate,
            out / "evaluation",
            report,
            experiment.retention_settings(),
        )
        held = rows(document, names, experiment.seeds, experiment.conditions)
        table: dict[str, Any] = {
            "experiment": path.name,
            "rows": held,
            "frontier": frontier_of(held),
            "paired": paired(
                out / "evaluation" / "predictions.jsonl",
                names,
                experiment.seeds,
                experiment.conditions,
                {v.name: v.against for v in experiment.all_variants() if v.against},
            ),
            "selected": None,
            "test": None,
        }
        if experiment.select:
            table["selected"] = _select(table["rows"], experiment)
        if experiment.test is not None:
            table["test"] = _test_once(experiment, table, systems, out, report, cluster)
    _record(experiment, path, model, table, out)
    write_text(out / _TABLE, json.dumps(table, indent=2) + "\n")
    write_text(out / "table.md", markdown(table))
    plot(table, out / "table.svg")
    _show(table)
    return {**table, "table": str(out / "table.md"), "report": str(out / "evaluation")}


def _select(table: Sequence[Mapping[str, Any]], experiment: Experiment) -> dict[str, str | None]:
    """Method -> its best variant by the declared rule; None where no variant keeps to it."""
    by_name = {row["variant"]: row["figures"] for row in table}
    base = by_name[BASE]["clean, EM"]["mean"]
    chosen: dict[str, str | None] = {}
    best: dict[str, float] = {}
    for variant in experiment.all_variants():
        figures = by_name[variant.name]
        chosen.setdefault(variant.method, None)
        lost, refused = base - figures["clean, EM"]["mean"], figures["clean, refused"]["mean"]
        near = lost <= experiment.select.get("clean_within", 1.0) + _ROUNDING
        answers = refused <= experiment.select.get("refused_clean", 1.0) + _ROUNDING
        value = figures["distractor mean, EM"]["mean"]
        if near and answers and value > best.get(variant.method, -1.0):
            best[variant.method] = value
            chosen[variant.method] = variant.name
    return chosen


def _test_once(
    experiment: Experiment,
    table: Mapping[str, Any],
    systems: Mapping[str, Path],
    out: Path,
    report: Reporter,
    cluster: Cluster | None,
) -> dict[str, Any]:
    """Evaluate the chosen on test; refuses when the test was used for another choice before."""
    assert experiment.test is not None
    names = [name for name in table["selected"].values() if name is not None]
    # One that was changed under its name is another choice.
    made = {
        system: _made_of(place)
        for system, place in systems.items()
        if system.rpartition("-")[0] in names
    }
    touched = {"selected": names, "made": made, **hash_inputs(test=experiment.test)}
    mark = out / "test-touched.json"
    if mark.is_file() and json.loads(mark.read_text(encoding="utf-8")) != touched:
        raise BadInput(
            f"{mark}: the test questions were used for another choice already; a new choice needs "
            "new test questions, or a new ‹out› if you accept that they were seen"
        )
    write_text(mark, json.dumps(touched) + "\n")
    chosen = {
        name: place
        for name, place in systems.items()
        if name == BASE or name.rpartition("-")[0] in names
    }
    if cluster is not None:
        cluster.answer(chosen, experiment.test, out / "test", report)
    document = evaluate(experiment, chosen, experiment.test, out / "test", report)
    return {
        "touched": touched,
        "rows": rows(document, names, experiment.seeds, experiment.conditions),
    }


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
