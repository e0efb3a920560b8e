"""The pieces of an experiment: one variant mined for and tuned, systems evaluated.

What is there already, made of the same things, is not made again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurorit.pipelines import method as tuning
from neurorit.pipelines.experiment.document import Experiment, Variant
from neurorit.pipelines.progress import Reporter, reporting
from neurorit.pipelines.recipe import Recipe
from neurorit.pipelines.torchrun import assigned, launch

if TYPE_CHECKING:
    from neurorit.pipelines.evaluation.retention import RetentionSettings
    from neurorit.tuning.settings import TuneSettings

_RATES = ("stage1_learning_rate", "learning_rate", "dense_learning_rate")


def settings_of(variant: Variant, recipe: Path) -> TuneSettings:
    """What a variant is tuned with."""
    from neurorit.tuning.settings import TuneSettings

    options = {**given_settings(variant, recipe), "method": variant.method}
    return Recipe(recipe).settings(TuneSettings, "tune", options, variant.method)


def given_settings(variant: Variant, recipe: Path) -> dict[str, Any]:
    """A variant's settings over the recipe's, with its rates times its factor."""
    from neurorit.tuning.settings import TuneSettings

    if variant.rate_factor == 1.0:
        return dict(variant.settings)
    options = {**variant.settings, "method": variant.method}
    plain = Recipe(recipe).settings(TuneSettings, "tune", options, variant.method)
    rates = {name: getattr(plain, name) for name in _RATES}
    scaled = {name: by * variant.rate_factor for name, by in rates.items() if by is not None}
    return {**variant.settings, **scaled}


def shares_atlas(variant: Variant) -> bool:
    """Whether it is mined for together with the experiment's other variants."""
    from neurorit.mining.settings import OF_THE_CHOICE
    from neurorit.tuning.settings import needs_atlas

    # What differs in the choice alone is chosen from what one run has mined.
    alike = variant.examples is None and set(variant.mine) <= set(OF_THE_CHOICE)
    return needs_atlas(variant.method) and alike


def mine_for_all(experiment: Experiment, seed: int, model: Path, recipe: Path, mined: Path) -> None:
    """Mine what variants share (`shares_atlas`), unless it is there."""
    _mined(experiment, mined, model, experiment.examples, recipe, seed, {})


def _mined(
    experiment: Experiment,
    place: Path,
    model: Path,
    examples: Path,
    recipe: Path,
    seed: int,
    options: Mapping[str, Any],
) -> Path:
    read, processes = Recipe(recipe), experiment.processes
    there = processes > 1 and tuning.is_mined(place, model, examples, read, seed, options)
    if processes > 1 and not there:
        launch("mine", model, examples, place, recipe, seed, options, processes)
    with reporting() as report:
        return tuning.mined_at(place, model, examples, read, seed, report, options)


def tune(
    experiment: Experiment,
    variant: Variant,
    seed: int,
    model: Path,
    recipe: Path,
    out: Path,
    mined: Path,
    own: Path,
    place: str = "",
) -> None:
    """Tune one variant with one seed.

    mined: the atlas that variants share; own: where the variant's own choice of neurons, or its own
    mining, is; place: which training of how many this is, to be told.
    """
    from neurorit.tuning.settings import needs_atlas, settings_inputs

    settings = settings_of(variant, recipe)
    examples = variant.examples or experiment.examples
    needed = None
    if shares_atlas(variant):
        needed = _mined(experiment, mined, model, examples, recipe, seed, {})
        if variant.mine:
            with reporting() as report:
                needed = tuning.chosen_at(
                    own, mined, model, examples, Recipe(recipe), seed, report, variant.mine
                )
    elif needs_atlas(variant.method):
        needed = _mined(experiment, own, model, examples, recipe, seed, variant.mine)
    files = {"examples": examples, **({"atlas": needed} if needed else {})}
    wanted = tuning.inputs_of(model, **files) | settings_inputs(settings)
    if tuning.made_of(out, "checkpoint", settings, seed, wanted, experiment.processes):
        return
    if place:
        with reporting() as report:
            report.say(f"training {place}: {out.name}")
    given = given_settings(variant, recipe)
    if experiment.processes > 1:
        more = {"method": variant.method, **({"atlas": needed} if needed else {})}
        launch("tune", model, examples, out, recipe, seed, given, experiment.processes, more)
        return
    texts = assigned(given)
    tuning.tune(model, examples, out, variant.method, needed, recipe, texts, seed, True)


def evaluate(
    experiment: Experiment,
    systems: Mapping[str, Path],
    examples: Path,
    out: Path,
    report: Reporter,
    retention: RetentionSettings | None = None,
    seeds: Sequence[int] = (),
) -> dict[str, Any]:
    """The report of what systems answer to examples, written into `out`.

    seeds: those of the systems, whose rates are drawn as one line where retention is measured.
    """
    from neurorit.eval.report.write import write_report
    from neurorit.pipelines.evaluation.evaluate import evaluate

    document = evaluate(
        systems,
        examples,
        experiment.conditions,
        engine=experiment.engine,
        max_tokens=experiment.max_tokens,
        unended_as_wrong=True,
        limit=experiment.limit_of(examples),
        sample="first",
        retention=retention,
        out=out,
        progress=report,
    ).report
    families = {k: v for k, v in experiment.families(seeds).items() if k in systems}
    if retention is None or not families:
        return document
    return write_report(document | {"families": families}, out)
