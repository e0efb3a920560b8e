"""experiment: variants x seeds, tuned and evaluated, in one table with intervals over seeds.

What is there already is not made again, so a killed experiment goes on. With `select`, one variant
of each method is chosen on `evaluate` by the declared rule, and only the chosen are run on `test`,
once: another choice later is refused, since it would have been made with the test in sight.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from neurorit.core.artifact import Manifest, hash_inputs, write_manifest
from neurorit.core.atomic_files import write_text
from neurorit.core.errors import BadInput
from neurorit.core.settings import AtLeastOne, Settings, fit, read_yaml
from neurorit.eval.conditions import distractor_conditions, parse_condition
from neurorit.pipelines import method as tuning
from neurorit.pipelines.experiment.table import (
    BASE,
    frontier_of,
    markdown,
    paired,
    plot,
    rows,
)
from neurorit.pipelines.progress import Reporter, reporting
from neurorit.pipelines.recipe import LAB_RECIPE, Recipe, find_recipe
from neurorit.pipelines.torchrun import assigned, launch

if TYPE_CHECKING:
    from neurorit.pipelines.evaluation.retention import RetentionSettings
    from neurorit.tuning.settings import TuneSettings

_TABLE = "table.json"
_OF_VARIANT = ("method", "settings", "mine", "examples", "learning_rates", "against")


@dataclass(frozen=True)
class Variant:
    """A named way to tune: a method, settings over the recipe's, examples of its own.

    against: the variant that it is compared with, beside the base and the first one.
    """

    name: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    mine: Mapping[str, Any] = field(default_factory=dict)
    examples: Path | None = None
    against: str = ""


@dataclass(frozen=True)
class Experiment(Settings):
    """What an experiment file holds."""

    model: str
    """What is tuned: a checkpoint, or lab for the embedded model."""
    examples: Path
    """What it is tuned on."""
    evaluate: Path
    """Examples with pools (mix --for eval) that the table is of."""
    recipe: str = "lab"
    """A recipe file, or a packaged one's name."""
    methods: tuple[str, ...] = ()
    """Names of methods."""
    variants: Mapping[str, Any] = field(default_factory=dict)
    """Name -> {method, settings (of tuning), mine (settings of mining), examples, learning_rates
    (the variant once for each, named NAME@RATE), against (another variant that it is compared
    with)}."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of mining and tuning."""
    conditions: tuple[str, ...] = ("clean", "distractor-1", "distractor-2", "distractor-4")
    """Conditions of the evaluation."""
    limit: AtLeastOne | None = None
    """So many questions."""
    max_tokens: AtLeastOne = 32
    """Tokens of an answer at most."""
    select: Mapping[str, Any] = field(default_factory=dict)
    """The rule {clean_within, refused_clean}: of each method's variants the one with the best mean
    over the distractor conditions is chosen, among those whose exact match on clean is within
    `clean_within` of the base's and whose refusals there are at most `refused_clean`."""
    test: Path | None = None
    """Examples for the chosen, asked once."""
    engine: Literal["auto", "vllm", "transformers"] = "vllm"
    """What answers: vllm, or transformers, which is sooner there for models of a few million
    parameters."""
    processes: AtLeastOne = 1
    """So many mine and tune together, each with a GPU of its own where there are any."""
    retention: Mapping[str, Any] | None = None
    """What is kept of the base is measured too, on these settings (of `retention` in an evaluation
    file): every variant is a point of robustness against retention."""
    settings_from: str = ""
    """Where the settings were chosen, when not here; it stands in the manifest."""

    @classmethod
    def read(cls, path: Path) -> Experiment:
        """Read and check a file; raises BadInput that names the file and the setting."""
        document = read_yaml(path, "an experiment")
        made = fit(cls, document, str(path))
        if not made.all_variants():
            raise BadInput(f"{path}: name `methods` or `variants`")
        unknown = set(made.select) - {"clean_within", "refused_clean"}
        if unknown:
            raise BadInput(f"{path}: select knows clean_within and refused_clean, not {unknown}")
        if made.test is not None and not made.select:
            raise BadInput(f"{path}: `test` is for the chosen; declare the rule under `select`")
        made.retention_settings()
        for condition in made.conditions:
            parse_condition(condition)
        noisy = distractor_conditions(list(made.conditions))
        if made.select and not ("clean" in made.conditions and noisy):
            raise BadInput(f"{path}: select needs the conditions `clean` and `distractor-K`")
        return made

    def check_data(self, path: Path) -> None:
        """Raise BadInput, naming `path`, where examples are not there."""
        own = [(f"variant {v.name}", v.examples) for v in self.all_variants()]
        named = [("examples", self.examples), ("evaluate", self.evaluate), ("test", self.test)]
        for name, place in named + own:
            if place is not None and not place.exists():
                demo = "; `make demo` writes it" if "demo" in place.parts else ""
                raise BadInput(f"{path}: {name}: {place}: no such file or directory{demo}")

    def retention_settings(self) -> RetentionSettings | None:
        """What retention is measured on, where it is asked for."""
        if self.retention is None:
            return None
        from neurorit.pipelines.evaluation.retention import RetentionSettings

        return fit(RetentionSettings, self.retention, "retention")

    def families(self) -> dict[str, str]:
        """Run -> what it shares with those of other learning rates, where there are several."""
        return {
            f"{name}@{rate:g}-{seed}": f"{name}-{seed}"
            for name, given in self.variants.items()
            for rate in _rates(name, given) or ()
            for seed in self.seeds
        }

    def all_variants(self) -> list[Variant]:
        """Methods under their own names, then the variants."""
        made = [Variant(method, method) for method in self.methods]
        for name, given in self.variants.items():
            if not isinstance(given, Mapping) or "method" not in given:
                raise BadInput(f"variant {name}: write {{method: ..., settings: ...}}")
            unknown = set(given) - set(_OF_VARIANT)
            if unknown:
                raise BadInput(f"variant {name}: it has {', '.join(_OF_VARIANT)}, not {unknown}")
            own = Path(given["examples"]) if given.get("examples") else None
            settings, mining = dict(given.get("settings", {})), dict(given.get("mine", {}))
            method, rates = str(given["method"]), _rates(name, given)
            rival = str(given.get("against", ""))
            if rates is None:
                made.append(Variant(str(name), method, settings, mining, own, rival))
                continue
            made += [
                Variant(
                    f"{name}@{rate:g}",
                    method,
                    settings | {"learning_rate": rate},
                    mining,
                    own,
                    rival,
                )
                for rate in rates
            ]
        names = {variant.name for variant in made}
        for variant in made:
            if variant.against and variant.against not in names - {variant.name}:
                raise BadInput(
                    f"variant {variant.name}: against {variant.against!r} is no other variant"
                )
        return made


def _rates(name: str, given: Mapping[str, Any]) -> list[float] | None:
    """The learning rates of a variant; None where it has the one of its settings."""
    rates = given.get("learning_rates")
    if rates is None:
        return None
    try:
        # YAML takes 1e-4 for a text.
        found = [float(rate) for rate in rates] if isinstance(rates, list) else []
    except (TypeError, ValueError):
        found = []
    if not found:
        raise BadInput(f"variant {name}: learning_rates is a list of numbers, not {rates!r}")
    return found


def run(path: Path, out: Path) -> Mapping[str, Any]:
    """Run or go on with the experiment in `path`.

    Writes table.json, table.md and table.svg into `out`.
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
        _settings(variant, recipe).check(atlas=True, adapter=False)
        Recipe(recipe).settings(MiningSettings, "mine", variant.mine)
    out.mkdir(parents=True, exist_ok=True)
    model = _model(experiment.model)
    systems: dict[str, Path] = {BASE: model}
    for seed in experiment.seeds:
        for variant in experiment.all_variants():
            made = out / f"{variant.name}-{seed}"
            _tune(experiment, variant, seed, model, recipe, made, out / f"atlas-{seed}")
            systems[f"{variant.name}-{seed}"] = made
    names = [variant.name for variant in experiment.all_variants()]
    release()  # vLLM is another process and takes nearly the whole GPU
    with reporting() as report:
        document = _evaluate(
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
            table["test"] = _test_once(experiment, table, systems, out, report)
    _record(experiment, path, model, table, out)
    write_text(out / _TABLE, json.dumps(table, indent=2) + "\n")
    write_text(out / "table.md", markdown(table))
    plot(table, out / "table.svg")
    _show(table)
    return {**table, "table": str(out / "table.md"), "report": str(out / "evaluation")}


def _settings(variant: Variant, recipe: Path) -> TuneSettings:
    from neurorit.tuning.settings import TuneSettings

    options = {**variant.settings, "method": variant.method}
    return Recipe(recipe).settings(TuneSettings, "tune", options, variant.method)


def _tune(
    experiment: Experiment,
    variant: Variant,
    seed: int,
    model: Path,
    recipe: Path,
    out: Path,
    mined: Path,
) -> None:
    """Tune one variant with one seed, unless it is there already, made of the same things."""
    from neurorit.mining.settings import OF_THE_CHOICE
    from neurorit.model.checkpoint import weights_digest
    from neurorit.tuning.settings import needs_atlas

    settings = _settings(variant, recipe)
    examples = variant.examples or experiment.examples
    apart = variant.examples is not None or bool(variant.mine)
    atlas = out.with_name(f"{out.name}-atlas") if apart else mined
    needed = None
    if needs_atlas(variant.method):
        read, mining = Recipe(recipe), variant.mine
        # What differs in the choice alone is chosen from what one run has mined.
        chosen_alone = apart and variant.examples is None and set(mining) <= set(OF_THE_CHOICE)
        if chosen_alone:
            atlas, mining = mined, {}
        there = tuning.is_mined(atlas, model, examples, read, seed, mining)
        if experiment.processes > 1 and not there:
            launch("mine", model, examples, atlas, recipe, seed, mining, experiment.processes)
        with reporting() as report:
            needed = tuning.mined_at(atlas, model, examples, read, seed, report, mining)
            if chosen_alone:
                place = out.with_name(f"{out.name}-atlas")
                needed = tuning.chosen_at(
                    place, mined, model, examples, read, seed, report, variant.mine
                )
    wanted = {
        **hash_inputs(examples=examples, **({"atlas": needed} if needed else {})),
        "model": weights_digest(model),
    }
    if tuning.made_of(out, "checkpoint", settings, seed, wanted):
        return
    if experiment.processes > 1:
        more = {"method": variant.method, **({"atlas": needed} if needed else {})}
        own, processes = variant.settings, experiment.processes
        launch("tune", model, examples, out, recipe, seed, own, processes, more)
        return
    texts = assigned(variant.settings)
    tuning.tune(model, examples, out, variant.method, needed, recipe, texts, seed, True)


def _evaluate(
    experiment: Experiment,
    systems: Mapping[str, Path],
    examples: Path,
    out: Path,
    report: Reporter,
    retention: RetentionSettings | None = None,
) -> dict[str, Any]:
    from neurorit.eval.report.write import write_report
    from neurorit.pipelines.evaluation.evaluate import evaluate

    document = evaluate(
        systems,
        examples,
        experiment.conditions,
        engine=experiment.engine,
        max_tokens=experiment.max_tokens,
        unended_as_wrong=True,
        limit=experiment.limit,
        sample="first",
        retention=retention,
        out=out,
        progress=report,
    ).report
    families = experiment.families()
    if retention is None or not families:
        return document
    return write_report(document | {"families": families}, out)


def _select(table: Sequence[Mapping[str, Any]], experiment: Experiment) -> dict[str, str | None]:
    """Method -> its best variant by the declared rule; None where no variant keeps to it."""
    by_name = {row["variant"]: row["figures"] for row in table}
    base = by_name[BASE]["clean, EM"]["mean"]
    chosen: dict[str, str | None] = {}
    best: dict[str, float] = {}
    for variant in experiment.all_variants():
        figures = by_name[variant.name]
        chosen.setdefault(variant.method, None)
        near = base - figures["clean, EM"]["mean"] <= experiment.select.get("clean_within", 1.0)
        refused = figures["clean, refused"]["mean"] <= experiment.select.get("refused_clean", 1.0)
        value = figures["distractor mean, EM"]["mean"]
        if near and refused and value > best.get(variant.method, -1.0):
            best[variant.method] = value
            chosen[variant.method] = variant.name
    return chosen


def _test_once(
    experiment: Experiment,
    table: Mapping[str, Any],
    systems: Mapping[str, Path],
    out: Path,
    report: Reporter,
) -> dict[str, Any]:
    """Evaluate the chosen on test; refuses when the test was used for another choice before."""
    assert experiment.test is not None
    names = [name for name in table["selected"].values() if name is not None]
    touched = {"selected": names, **hash_inputs(test=experiment.test)}
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
    document = _evaluate(experiment, chosen, experiment.test, out / "test", report)
    return {
        "touched": touched,
        "rows": rows(document, names, experiment.seeds, experiment.conditions),
    }


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
    if name != "lab":
        from neurorit.model.checkpoint import checkpoint_dir

        return checkpoint_dir(name)
    from neurorit.lab import base_model_dir

    return base_model_dir()
