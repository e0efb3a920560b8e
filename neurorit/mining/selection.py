"""Which neurons are taken: rules over what mining kept of every sample, remade in seconds.

A rule is given an atlas and a budget and says which neurons are P_rel, P_irrel and P_shared. None
of them mines anything; those that need more than an atlas are given it.

Source: docs/method.md, Phase 1, steps 3 and 4; "Selection".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, ttest_ind_from_stats
from scipy.stats import t as student

from neurorit.core.errors import BadInput
from neurorit.mining.atlas import SETS, NeuronAtlas, choose_sets
from neurorit.mining.settings import SELECTIONS

Array = NDArray[Any]
LEVEL = 0.05  # of false discoveries among the chosen, unless a setting says otherwise


@dataclass(frozen=True)
class Evidence:
    """What a rule chooses by.

    budget: neurons, over all layers: K of either side for rules that rank sides apart. level: the
    share of false discoveries that is borne. activity [L, F]: mean size of the neurons' values;
    gradients: "rel", "irrel", "general" -> mean squared gradient [L, F] of each neuron's weights on
    samples with evidence, without, and on other text; listed: set -> neurons [n, 2] of a file.
    """

    atlas: NeuronAtlas
    budget: int
    level: float = LEVEL
    seed: int = 0
    activity: Array | None = None
    gradients: Mapping[str, Array] | None = None
    listed: Mapping[str, Array] | None = None


Rule = Callable[[Evidence], Mapping[str, Array]]


def select(evidence: Evidence, rule: str) -> NeuronAtlas:
    """The atlas with the neurons that a rule takes; scores and counts stay as they were mined.

    Raises BadInput for an unknown rule, for one that lacks what it chooses by, and where nothing is
    chosen.
    """
    choose: Rule = SELECTIONS.get(rule, "selection")
    sets: Mapping[str, Any] = _checked(choose(evidence), evidence, rule)
    if not sum(len(chosen) for chosen in sets.values()):
        raise BadInput(
            f"selection {rule}: no neuron is left; raise the budget or the false-discovery level"
        )
    return replace(evidence.atlas, **sets)


def _checked(sets: Mapping[str, Any], evidence: Evidence, rule: str) -> Mapping[str, Array]:
    """The sets that a rule gave; raises BadInput where they are no neurons of this atlas."""
    depth, width = evidence.atlas.scores_rel.shape
    checked = {}
    for name in SETS:
        pairs = np.asarray(sets.get(name, np.empty((0, 2), np.int32)))
        if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
            raise BadInput(f"selection {rule}: {name} is to be whole numbers [n, 2]")
        if len(pairs) and (pairs.min() < 0 or (pairs.max(0) >= (depth, width)).any()):
            raise BadInput(f"selection {rule}: {name} names neurons that the model does not have")
        checked[name] = pairs.astype(np.int32)
    if unknown := sets.keys() - set(SETS):
        raise BadInput(f"selection {rule}: {min(unknown)!r} is none of {', '.join(SETS)}")
    every = np.concatenate(list(checked.values()))
    if len(np.unique(every, axis=0)) < len(every):
        raise BadInput(f"selection {rule}: a neuron stands in it twice")
    return checked


def budget_of(text: str | float, size: int) -> int:
    """Neurons of a budget such as 2%, 0.02 (a share of all `size`) or 300 (a count)."""
    given = str(text).strip()
    try:
        value = float(given.removesuffix("%")) / (100 if given.endswith("%") else 1)
    except ValueError:
        value = -1.0
    share = given.endswith("%") or 0 < value < 1
    count = round(value * size) if share else int(value)
    if not share and value != count:
        count = 0
    if not 1 <= count <= size:
        raise BadInput(
            f"budget {text}: write a share of all neurons, as 2% or 0.02, or a count up to {size}"
        )
    return count


def keep_scores(scores: Array, threshold: float, top: int) -> tuple[Array, Array]:
    """Flat indices and values of the scores above `threshold` of the largest, at most `top` [K].

    A sample whose scores are all zero or negative keeps none.
    """
    flat = np.asarray(scores, dtype=np.float64).ravel()
    largest = float(flat.max(initial=0.0))
    if largest <= 0.0:
        return np.empty(0, np.int64), np.empty(0)
    order = np.argsort(-flat, kind="stable")[:top]
    order = order[flat[order] > threshold * largest]
    order = np.sort(order)
    return order, flat[order]


def most_frequent(counts: Array, scores: Array, k: int) -> Array:
    """Boolean choice, shaped as `counts`, of the k most often kept; ties by summed score.

    Neurons that no sample kept are never chosen.
    """
    order = np.lexsort((-scores.ravel(), -counts.ravel()))[:k]
    chosen = np.zeros(counts.size, dtype=bool)
    chosen[order] = counts.ravel()[order] > 0
    return chosen.reshape(counts.shape)


def surviving(atlas: NeuronAtlas, level: float = LEVEL) -> dict[str, int]:
    """How many neurons of each set stay when at most `level` of them may be false discoveries.

    P_rel: its mean attribution is larger on relevant contexts than on irrelevant ones; P_irrel: the
    other way round; P_shared: above zero on both. Welch's t-test, or Student's of one sample, for
    every neuron, corrected over all neurons (Benjamini and Hochberg).
    """
    values = discoveries(atlas)
    width = atlas.scores_rel.shape[1]
    return {
        name: int((values[name][_flat(getattr(atlas, name), width)] <= level).sum())
        for name in SETS
    }


def discoveries(atlas: NeuronAtlas) -> dict[str, Array]:
    """Of every neuron [L * F] the least false-discovery rate at which it is in each set.

    Scores that the atlas did not keep count as zero. Raises BadInput for an atlas without samples'
    scores, or with fewer than two on a side.
    """
    rel, irrel = _Side.of(atlas, "rel"), _Side.of(atlas, "irrel")
    if min(rel.samples, irrel.samples) < 2:
        raise BadInput("the atlas has fewer than two samples of a side: nothing can be tested")
    seen = (rel.variance > 0) | (irrel.variance > 0)
    found = {}
    for name, (one, other) in {"rel": (rel, irrel), "irrel": (irrel, rel)}.items():
        p = np.ones(len(seen))
        p[seen] = ttest_ind_from_stats(
            one.mean[seen], np.sqrt(one.variance[seen]), one.samples,
            other.mean[seen], np.sqrt(other.variance[seen]), other.samples,
            equal_var=False, alternative="greater",
        ).pvalue  # fmt: skip
        found[name] = false_discovery_control(p)
    above = np.ones((2, len(seen)))
    for row, side in enumerate((rel, irrel)):
        varies = side.variance > 0
        error = np.sqrt(side.variance[varies] / side.samples)
        above[row, varies] = student.sf(side.mean[varies] / error, side.samples - 1)
    found["shared"] = false_discovery_control(above.max(0))
    return found


@dataclass(frozen=True)
class _Side:
    """Mean and variance over the samples of a side, of every neuron [L * F]."""

    mean: Array
    variance: Array
    samples: int

    @classmethod
    def of(cls, atlas: NeuronAtlas, side: str) -> _Side:
        neurons, scores = (
            getattr(atlas, f"sample_{name}_{side}") for name in ("neurons", "scores")
        )
        samples = len(getattr(atlas, f"sample_ends_{side}")) - 1
        if samples < 1:
            raise BadInput("the atlas keeps no scores of its samples; mine it again")
        size = atlas.scores_rel.size
        scores = scores.astype(np.float64)
        mean = np.bincount(neurons, weights=scores, minlength=size) / samples
        square = np.bincount(neurons, weights=scores**2, minlength=size)
        variance = (square - samples * mean**2) / max(1, samples - 1)
        # What rounding leaves of a neuron that scores alike everywhere is no variance.
        variance[variance < 1e-12 * square] = 0.0
        return cls(mean, variance, samples)


def _by_count(evidence: Evidence) -> Mapping[str, Array]:
    """The paper's: the neurons most often kept on a side, their differences and intersection."""
    atlas = evidence.atlas
    return choose_sets(
        most_frequent(atlas.counts_rel, atlas.scores_rel, evidence.budget),
        most_frequent(atlas.counts_irrel, atlas.scores_irrel, evidence.budget),
    )


def _by_mean(evidence: Evidence) -> Mapping[str, Array]:
    """As by count, by the largest mean attribution."""
    return _ranked_apart(
        evidence, *(_Side.of(evidence.atlas, side).mean for side in ("rel", "irrel"))
    )


def _by_difference(evidence: Evidence) -> Mapping[str, Array]:
    """The largest differences of mean attribution that stand the false-discovery cut."""
    rel, irrel = (_Side.of(evidence.atlas, side).mean for side in ("rel", "irrel"))
    values = discoveries(evidence.atlas)
    return {
        "rel": _largest(evidence, np.where(values["rel"] <= evidence.level, rel - irrel, 0.0)),
        "irrel": _largest(evidence, np.where(values["irrel"] <= evidence.level, irrel - rel, 0.0)),
        "shared": np.empty((0, 2), np.int32),
    }


def _by_gradient(evidence: Evidence) -> Mapping[str, Array]:
    """As by count, by the training loss's mean squared gradient (Fisher)."""
    given = _gradients(evidence, "rel", "irrel")
    return _ranked_apart(evidence, *(given[side].ravel() for side in ("rel", "irrel")))


def _by_spared_gradient(evidence: Evidence) -> Mapping[str, Array]:
    """As by gradient, relative to the gradient on other text (as sparse memory finetuning ranks).

    Source: arXiv 2510.15103; a tenth of the mean keeps silent neurons from ranking first.
    """
    given = _gradients(evidence, "rel", "irrel", "general")
    general = given["general"].ravel() + 0.1 * float(given["general"].mean())
    return _ranked_apart(evidence, *(given[side].ravel() / general for side in ("rel", "irrel")))


def _at_random(evidence: Evidence) -> Mapping[str, Array]:
    """As many neurons of each set as the rule by count takes, drawn over all layers."""
    order = np.random.default_rng(evidence.seed).permutation(evidence.atlas.scores_rel.size)
    return _dealt(evidence, order)


def _by_activity(evidence: Evidence) -> Mapping[str, Array]:
    """As many neurons of each set as the rule by count takes, the most active, dealt by chance."""
    if evidence.activity is None:
        raise BadInput(
            "selection active: it needs the model and the examples (--model, --examples)"
        )
    total = sum(len(chosen) for chosen in _by_count(evidence).values())
    most = np.argsort(-evidence.activity.ravel(), kind="stable")[:total]
    return _dealt(evidence, np.random.default_rng(evidence.seed).permutation(most))


def _from_file(evidence: Evidence) -> Mapping[str, Array]:
    """What a file lists."""
    if evidence.listed is None:
        raise BadInput("selection file: it needs a list of neurons (--neurons)")
    empty = np.empty((0, 2), np.int32)
    return {name: evidence.listed.get(name, empty) for name in SETS}


BY_ATLAS = ("count", "mean", "difference", "random")  # rules that need nothing more


def read_neurons(path: Path, depth: int, width: int) -> dict[str, Array]:
    """set -> neurons [n, 2] of a text file of lines `LAYER NEURON [rel|irrel|shared]`.

    A line without a set is of P_irrel; # begins a comment. Raises BadInput with file:line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: no list of neurons could be read: {error}") from error
    listed: dict[str, set[tuple[int, int]]] = {name: set() for name in SETS}
    for number, line in enumerate(lines, 1):
        parts = line.partition("#")[0].replace(",", " ").split()
        if not parts:
            continue
        name = parts[2] if len(parts) == 3 else "irrel"
        good = len(parts) in (2, 3) and all(part.isdecimal() for part in parts[:2])
        if not good or name not in SETS:
            raise BadInput(f"{path}:{number}: write LAYER NEURON, then rel, irrel or shared")
        layer, neuron = int(parts[0]), int(parts[1])
        if layer >= depth or neuron >= width:
            raise BadInput(
                f"{path}:{number}: the model has layers 0 to {depth - 1}, neurons 0 to {width - 1}"
            )
        if any((layer, neuron) in chosen for chosen in listed.values()):
            raise BadInput(f"{path}:{number}: neuron {neuron} of layer {layer} stands there twice")
        listed[name].add((layer, neuron))
    if not any(listed.values()):
        raise BadInput(f"{path}: lists no neuron")
    return {
        name: np.array(sorted(chosen), dtype=np.int32).reshape(-1, 2)
        for name, chosen in listed.items()
    }


def _ranked_apart(evidence: Evidence, rel: Array, irrel: Array) -> Mapping[str, Array]:
    """The sets of the neurons that rank highest on each side, above zero."""
    shape = evidence.atlas.scores_rel.shape
    chosen = []
    for ranks in (rel, irrel):
        taken = np.zeros(shape, dtype=bool)
        pairs = _largest(evidence, ranks).astype(np.int64)
        taken[pairs[:, 0], pairs[:, 1]] = True
        chosen.append(taken)
    return choose_sets(*chosen)


def _largest(evidence: Evidence, values: Array) -> Array:
    """The neurons [n, 2] of the largest values above zero, within the budget, in order."""
    order = np.argsort(-values, kind="stable")[: evidence.budget]
    return _pairs(order[values[order] > 0], evidence)


def _dealt(evidence: Evidence, order: Array) -> Mapping[str, Array]:
    """Sets as large as the rule by count makes them, of neurons in that order."""
    sets, first = {}, 0
    for name, chosen in _by_count(evidence).items():
        sets[name] = _pairs(order[first : first + len(chosen)], evidence)
        first += len(chosen)
    return sets


def _pairs(flat: Array, evidence: Evidence) -> Array:
    width = evidence.atlas.scores_rel.shape[1]
    ordered = np.sort(flat)
    return np.stack([ordered // width, ordered % width], axis=1).astype(np.int32)


def _flat(pairs: Array, width: int) -> Array:
    flat: Array = pairs[:, 0].astype(np.int64) * width + pairs[:, 1]
    return flat


def _gradients(evidence: Evidence, *sides: str) -> Mapping[str, Array]:
    given = evidence.gradients or {}
    lacking = [side for side in sides if side not in given]
    if lacking:
        raise BadInput(
            "selection by gradient: it needs the model and the examples (--model, --examples)"
            + (", and other text (--general)" if lacking == ["general"] else "")
        )
    return given
