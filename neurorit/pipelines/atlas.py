"""atlas: what was mined, in numbers and as a picture, compared, and checked by silencing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from neurorit.core.artifact import read_manifest
from neurorit.core.errors import BadInput
from neurorit.pipelines.method import MEASURED
from neurorit.pipelines.progress import reporting

# Side, metric, and what it is called in the result. A probability is that of the answer which is
# given with nothing silenced, over the contexts that this answer follows.
_SHOWN = (
    ("rel", "right", "accuracy_relevant"),
    ("rel", "probability", "probability_right"),
    ("rel", "refused", "refused_relevant"),
    ("irrel", "misled", "misled_irrelevant"),
    ("irrel", "probability", "probability_misled"),
    ("irrel", "refused", "refused_irrelevant"),
)


def describe(directory: Path) -> Mapping[str, Any]:
    """Counts of the three sets, densities per layer, and what the manifest says of the making."""
    from neurorit.mining.atlas import NeuronAtlas

    atlas = NeuronAtlas.load(directory)
    manifest = read_manifest(directory, "atlas", verify=False)
    per_layer = [
        {
            "layer": layer,
            "density": float(density),
            **{
                name: int((getattr(atlas, name)[:, 0] == layer).sum())
                for name in ("rel", "irrel", "shared")
            },
        }
        for layer, density in enumerate(atlas.density)
    ]
    return {
        "atlas": str(directory),
        "rel": len(atlas.rel),
        "irrel": len(atlas.irrel),
        "shared": len(atlas.shared),
        "densest_layers": ", ".join(str(layer) for layer in atlas.densest(3)),
        "per_layer": per_layer,
        **dict(manifest.made),
    }


def draw(directory: Path, out: Path) -> Mapping[str, Any]:
    """Write the plot; raises BadInput for a name that is neither .svg nor .png."""
    from neurorit.mining.atlas import NeuronAtlas, plot

    if out.suffix not in (".svg", ".png"):
        raise BadInput(f"‹out={out}›: name a .svg or .png file")
    out.parent.mkdir(parents=True, exist_ok=True)
    plot(NeuronAtlas.load(directory), out)
    return {"plot": str(out)}


def select(
    directory: Path,
    out: Path,
    rule: str,
    budget: str,
    *,
    together: bool = False,
    level: float | None = None,
    neurons: Path | None = None,
    model: Path | None = None,
    examples: Path | None = None,
    general: str = "",
    samples: int = 256,
    seed: int = 0,
    overwrite: bool = False,
) -> Mapping[str, Any]:
    """Choose neurons anew from what mining kept, into an atlas of their own; nothing is mined.

    rule, level: see mining.selection. budget: a share or a count of all neurons, for either side
    or, `together`, for all sets. neurons: the list of rule `file`. model, examples: on which rules
    measure gradients and activity, where the atlas does not keep them yet; samples: how many of
    these; general: text that the model is to keep, a file or lab.
    """
    from neurorit.core.artifact import Manifest, hash_inputs
    from neurorit.mining.atlas import NeuronAtlas
    from neurorit.mining.selection.choose import Evidence, budget_of, read_neurons, select
    from neurorit.mining.selection.discovery import LEVEL, surviving
    from neurorit.mining.settings import SELECTIONS

    SELECTIONS.check(rule, "‹rule›")
    former = read_manifest(directory, "atlas")
    atlas = NeuronAtlas.load(directory)
    count = budget_of(budget, atlas.scores_rel.size)
    level = LEVEL if level is None else level
    settings = {
        **former.settings, "selection": rule, "budget": count, "together": together, "level": level,
    }  # fmt: skip
    measure = None
    if model is not None and examples is not None:
        measure = _measurements(atlas, directory, model, examples, general, samples, seed)
    listed = read_neurons(neurons, *atlas.scores_rel.shape) if neurons is not None else None
    with reporting() as report:
        if measure is not None:
            measure = replace(measure, progress=report.named(MEASURED))
        evidence = Evidence(atlas, count, level, seed, together, measure=measure, listed=listed)
        chosen = select(evidence, rule)
    places = {
        "neurons": neurons,
        "examples": examples,
        "general": Path(general) if general else None,
    }
    given = {name: place for name, place in places.items() if place is not None and place.exists()}
    manifest = Manifest(
        kind="atlas",
        command="neurorit-rag atlas select",
        settings=settings,
        seed=seed,
        inputs={**former.inputs, **hash_inputs(atlas=directory, **given)},
        made={**former.made, "false_discovery": {"level": level, **surviving(chosen, level)}},
    )
    chosen.save(out, manifest, overwrite=overwrite)
    return describe(out)


def _measurements(
    atlas: Any, directory: Path, model: Path, examples: Path, general: str, samples: int, seed: int
) -> Any:
    """What rules measure of a model; raises BadInput for one that the atlas is not of."""
    from neurorit.data.example_files import load_examples
    from neurorit.mining.selection.gradients import Measurements
    from neurorit.model.source import ModelSource
    from neurorit.pipelines.general_texts import general_texts

    source = ModelSource.of(model)
    source.check_tunable()
    if atlas.model and not source.has_weights(atlas.model):
        raise BadInput(f"{directory} was mined from other weights than ‹model={model}›")
    texts = general_texts(general, model, samples, seed)
    pool = load_examples(examples)
    return Measurements(source.load, source.template, pool, texts, samples, seed, atlas.site)


def compare(one: Path, other: Path) -> Mapping[str, Any]:
    """Overlap of two atlases of one model."""
    from neurorit.mining.atlas import NeuronAtlas, overlap

    found = overlap(NeuronAtlas.load(one), NeuronAtlas.load(other))
    return {
        "atlas": str(one),
        "other": str(other),
        "jaccard": {name: found[name] for name in ("rel", "irrel", "shared")},
        "rank_correlation": {side: found[f"scores_{side}"] for side in ("rel", "irrel")},
    }


def verify(
    directory: Path,
    model: Path,
    examples: Path,
    samples: int,
    draws: int,
    seed: int,
    *,
    patch: str = "zero",
    neurons: Sequence[Path] = (),
    batch_size: int = 16,
    dtype: str = "auto",
    device: str = "auto",
) -> Mapping[str, Any]:
    """What silencing its neurons does, with intervals, and what follows for the atlas.

    patch, and the other settings: see ablation.Check. neurons: files that list other sets.
    """
    from neurorit.eval.stats.intervals import bootstrap_interval, paired_comparison
    from neurorit.mining.ablation import CHOSEN, IRREL, NOTHING, Check, check, random_as
    from neurorit.mining.atlas import NeuronAtlas
    from neurorit.mining.selection.choose import read_neurons

    mined = read_manifest(directory, "atlas", verify=False).settings
    loaded = NeuronAtlas.load(directory)
    listed = {
        f"{path.stem}": np.concatenate(list(read_neurons(path, *loaded.scores_rel.shape).values()))
        for path in neurons
    }
    how = Check(
        samples=samples,
        noise_passages=int(mined.get("noise_passages", 1)),
        layout=str(mined.get("layout", "apart")),
        patch=patch,
        draws=draws,
        batch_size=batch_size,
        seed=seed,
        device=device,
        dtype=dtype,
    )
    with reporting() as report:
        outcomes = check(
            model, examples, loaded, how, listed=listed, progress=report.named("batches answered")
        )
    silenced = list(dict.fromkeys(outcome.silenced for outcome in outcomes))

    def values(name: str, side: str, metric: str) -> list[float]:
        return [
            getattr(o, metric)
            for o in outcomes
            if (o.silenced, o.side) == (name, side) and (metric != "probability" or o.followed)
        ]

    table = []
    for name in silenced:
        row: dict[str, Any] = {"silenced": name}
        for side, metric, title in _SHOWN:
            mine = values(name, side, metric)
            if not mine:  # no context of that side is followed
                continue
            row[title] = sum(mine) / len(mine)
            row[f"{title}_ci95"] = list(bootstrap_interval(mine, seed=seed))
            if name != NOTHING:
                change = paired_comparison(mine, values(NOTHING, side, metric), seed=seed)
                row[f"{title}_change"] = change.delta
                row[f"{title}_change_ci95"] = list(change.ci95)
        table.append(row)

    def against_random(name: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for side, metric in (("irrel", "misled"), ("irrel", "probability"), ("rel", "right")):
            mine, others = (values(one, side, metric) for one in (name, random_as(name)))
            change = paired_comparison(mine, others, seed=seed) if mine else None
            found[metric] = change.delta if change else None
            found[f"{metric}_ci95"] = list(change.ci95) if change else None
        return found

    against = {name: against_random(name) for name in silenced if random_as(name) in silenced}
    return {
        "atlas": str(directory),
        "patch": patch,
        "contexts": len(values(NOTHING, "rel", "right")),
        "followed": {side: len(values(NOTHING, side, "probability")) for side in ("rel", "irrel")},
        "silencing": table,
        "p_irrel_minus_random": against.get(IRREL),
        "minus_random": against,
        "verdict": _verdict(
            *((IRREL, against[IRREL]) if IRREL in against else (CHOSEN, against[CHOSEN]))
        ),
    }


def _verdict(name: str, against: Mapping[str, Any]) -> str:
    """In words, of the probability of misled answers, which is what was attributed."""
    interval = against["probability_ci95"]
    if interval is None:
        return f"no context misleads this model: nothing can be said of {name}"
    if interval[1] < 0:
        return f"silencing {name} weakens misled answers more than silencing random neurons does"
    if interval[0] > 0:
        return f"silencing {name} strengthens misled answers beside silencing random neurons"
    return f"silencing {name} cannot be told from silencing random neurons: do not rest on it"
