"""The rules that choose neurons, from what mining kept of every sample and from what they measure.

Those that rank the two sides apart make the paper's three sets: what ranks high on one side alone,
on the other alone, and on both. Those that rank neurons once put all of them into one set.

Source: docs/method.md, Phase 1, steps 3 and 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurorit.core.errors import BadInput
from neurorit.mining.atlas import SETS, choose_sets
from neurorit.mining.selection.choose import Evidence
from neurorit.mining.selection.discovery import SideScores, discoveries

Array = NDArray[Any]
Sets = Mapping[str, Array]
SIDES = ("rel", "irrel")
# Of the mean squared gradient on other text: what keeps silent neurons from ranking first.
_FLOOR = 0.1
_NOBODY = np.empty((0, 2), np.int32)


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


def by_count(evidence: Evidence) -> Sets:
    """The paper's: the neurons most often kept on a side, ties by summed score."""
    atlas = evidence.atlas
    counts = [getattr(atlas, f"counts_{side}").ravel() for side in SIDES]
    scores = [getattr(atlas, f"scores_{side}").ravel() for side in SIDES]
    orders = [np.lexsort((-s, -c)) for c, s in zip(counts, scores, strict=True)]
    return _of_two_orders(evidence, orders, [count > 0 for count in counts])


def by_mean(evidence: Evidence) -> Sets:
    """As by count, by the largest mean attribution."""
    return _ranked_apart(evidence, *(SideScores.of(evidence.atlas, side).mean for side in SIDES))


def by_difference(evidence: Evidence) -> Sets:
    """The largest differences of mean attribution that stand the false-discovery cut."""
    rel, irrel = (SideScores.of(evidence.atlas, side).mean for side in SIDES)
    values = discoveries(evidence.atlas)
    left = {
        "rel": np.where(values["rel"] <= evidence.level, rel - irrel, 0.0),
        "irrel": np.where(values["irrel"] <= evidence.level, irrel - rel, 0.0),
    }
    if evidence.together:
        # No neuron leans to both sides.
        taken = np.zeros(rel.size, dtype=bool)
        taken[_largest(evidence, np.maximum(left["rel"], left["irrel"]))] = True
        left = {side: np.where(taken, values, 0.0) for side, values in left.items()}
    return {side: _pairs(_largest(evidence, values), evidence) for side, values in left.items()}


def by_gradient(evidence: Evidence) -> Sets:
    """As by count, by the training loss's mean squared gradient (Fisher) on each side's samples."""
    return _ranked_apart(
        evidence, *(evidence.measured(f"gradient_{side}").ravel() for side in SIDES)
    )


def by_fisher(evidence: Evidence) -> Sets:
    """The largest mean squared gradient of the training loss on the mixed samples; all shared."""
    values = evidence.measured("gradient_mixed").ravel()
    return {"shared": _pairs(_largest(evidence, values), evidence)}


def by_spared_gradient(evidence: Evidence) -> Sets:
    """As by gradient, relative to the gradient on other text (as sparse memory finetuning ranks).

    Source: arXiv 2510.15103.
    """
    return _ranked_apart(evidence, *(_spared(evidence, side) for side in SIDES))


def by_spared_fisher(evidence: Evidence) -> Sets:
    """As by fisher, relative to the gradient on other text."""
    return {"shared": _pairs(_largest(evidence, _spared(evidence, "mixed")), evidence)}


def by_noise_gradient(evidence: Evidence) -> Sets:
    """P_irrel alone: the largest gradient on samples without evidence relative to other text's."""
    return {"irrel": _pairs(_largest(evidence, _spared(evidence, "irrel")), evidence)}


def at_random(evidence: Evidence) -> Sets:
    """As many neurons of each set as the rule by count takes, drawn over all layers."""
    order = np.random.default_rng(evidence.seed).permutation(evidence.atlas.scores_rel.size)
    return _dealt(evidence, order, _sizes(evidence))


def by_activity(evidence: Evidence) -> Sets:
    """As many neurons of each set as the rule by count takes, the most active, dealt by chance."""
    sizes = _sizes(evidence)
    activity = evidence.measured("activity").ravel()
    most = np.argsort(-activity, kind="stable")[: sum(sizes.values())]
    return _dealt(evidence, np.random.default_rng(evidence.seed).permutation(most), sizes)


def from_file(evidence: Evidence) -> Sets:
    """What a file lists."""
    if evidence.listed is None:
        raise BadInput("selection file: it needs a list of neurons (‹neuron_list›)")
    return {name: evidence.listed.get(name, _NOBODY) for name in SETS}


def _spared(evidence: Evidence, samples: str) -> Array:
    """Squared gradients [L * F] on those samples over those on other text."""
    wanted = evidence.measured(f"gradient_{samples}").ravel()
    general = evidence.measured("gradient_general").ravel()
    spared: Array = wanted / (general + _FLOOR * float(general.mean()))
    return spared


def _ranked_apart(evidence: Evidence, rel: Array, irrel: Array) -> Sets:
    """The sets of the neurons that rank highest on each side, above zero."""
    orders = [np.argsort(-values, kind="stable") for values in (rel, irrel)]
    return _of_two_orders(evidence, orders, [values > 0 for values in (rel, irrel)])


def _of_two_orders(evidence: Evidence, orders: list[Array], counts: list[Array]) -> Sets:
    """The sets of the first in the order of each side, of those that count.

    With a budget of all sets together, neurons are taken by their better place, as many as it says;
    with sizes, P_shared by the worse place, then what is left of either side.
    """
    size = evidence.atlas.scores_rel.size
    places = np.full((2, size), size)
    for side in range(2):
        places[side, orders[side]] = np.arange(size)
        places[side, ~counts[side]] = size
    if evidence.sizes:
        return _of_sizes(evidence, places)
    chosen = places < min(evidence.budget, size)
    if evidence.together:
        best = places.min(0)
        taken = np.argsort(best, kind="stable")[: evidence.budget]
        taken = taken[best[taken] < size]
        within = np.zeros(size, dtype=bool)
        within[taken] = True
        chosen = within & (places <= best[taken].max(initial=-1))
    return choose_sets(*(one.reshape(evidence.atlas.scores_rel.shape) for one in chosen))


def _of_sizes(evidence: Evidence, places: Array) -> Sets:
    """Sets of the wanted sizes, from each neuron's place [2, L * F] in the two sides' orders."""
    size, wanted = places.shape[1], evidence.sizes
    worse = places.max(0)
    shared = np.argsort(worse, kind="stable")[: wanted["shared"]]
    shared = shared[worse[shared] < size]
    taken = set(shared.tolist())
    better = places.min(0)
    sets: dict[str, list[int]] = {side: [] for side in SIDES}
    for neuron in np.argsort(better, kind="stable").tolist():
        if better[neuron] == size or all(len(sets[side]) == wanted[side] for side in SIDES):
            break
        if neuron in taken:
            continue
        # Of two sides that rank it alike the one gets it that lacks more.
        side = min(SIDES, key=lambda s: (places[SIDES.index(s), neuron], len(sets[s]) - wanted[s]))
        if len(sets[side]) < wanted[side]:
            sets[side].append(neuron)
    pairs = {name: _pairs(np.array(chosen, np.int64), evidence) for name, chosen in sets.items()}
    return {**pairs, "shared": _pairs(shared, evidence)}


def _largest(evidence: Evidence, values: Array) -> Array:
    """The places of the largest values above zero, within the budget."""
    order: Array = np.argsort(-values, kind="stable")[: evidence.budget]
    return order[values[order] > 0]


def _sizes(evidence: Evidence) -> dict[str, int]:
    """How many of each set: as by count; with a budget of all together, in these proportions."""
    if evidence.sizes:
        return dict(evidence.sizes)
    sizes = {name: len(chosen) for name, chosen in by_count(evidence).items()}
    if evidence.together:
        total = max(1, sum(sizes.values()))
        sizes = {name: evidence.budget * size // total for name, size in sizes.items()}
        sizes["shared"] += evidence.budget - sum(sizes.values())
    return sizes


def _dealt(evidence: Evidence, order: Array, sizes: Mapping[str, int]) -> Sets:
    """Sets of those sizes, of neurons in that order."""
    sets, first = {}, 0
    for name, size in sizes.items():
        sets[name] = _pairs(order[first : first + size], evidence)
        first += size
    return sets


def _pairs(flat: Array, evidence: Evidence) -> Array:
    """Neurons [n, 2] of places in [L * F], in order."""
    width = evidence.atlas.scores_rel.shape[1]
    ordered = np.sort(flat)
    return np.stack([ordered // width, ordered % width], axis=1).astype(np.int32)
