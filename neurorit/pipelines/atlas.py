"""atlas: what was mined, in numbers and as a picture, compared, and checked by silencing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurorit.core.artifact import read_manifest
from neurorit.core.errors import BadInput
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
        raise BadInput(f"--out {out}: name a .svg or .png file")
    out.parent.mkdir(parents=True, exist_ok=True)
    plot(NeuronAtlas.load(directory), out)
    return {"plot": str(out)}


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
    from neurorit.mining.ablation import IRREL, NOTHING, Check, check, random_as
    from neurorit.mining.atlas import NeuronAtlas
    from neurorit.mining.selection import read_neurons

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
        "p_irrel_minus_random": against[IRREL],
        "minus_random": against,
        "verdict": _verdict(against[IRREL]["probability_ci95"]),
    }


def _verdict(interval: Sequence[float] | None) -> str:
    """In words, of the probability of misled answers, which is what was attributed."""
    if interval is None:
        return "no context misleads this model: nothing can be said of P_irrel"
    if interval[1] < 0:
        return "silencing P_irrel weakens misled answers more than silencing random neurons does"
    if interval[0] > 0:
        return "silencing P_irrel strengthens misled answers beside silencing random neurons"
    return "silencing P_irrel cannot be told from silencing random neurons: do not rest on it"
