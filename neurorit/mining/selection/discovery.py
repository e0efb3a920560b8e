"""Which neurons may be chosen by chance: tests of the samples' scores, corrected over neurons.

Source: Benjamini and Hochberg 1995.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, ttest_ind_from_stats
from scipy.stats import t as student

from neurorit.core.errors import BadInput
from neurorit.mining.atlas import SETS, NeuronAtlas

Array = NDArray[Any]
LEVEL = 0.05  # of false discoveries among the chosen, unless a setting says otherwise


def surviving(atlas: NeuronAtlas, level: float = LEVEL) -> dict[str, int]:
    """How many neurons of each set stay when at most `level` of them may be false discoveries.

    P_rel: its mean attribution is larger on relevant contexts than on irrelevant ones; P_irrel: the
    other way round; P_shared: above zero on both. Welch's t-test, or Student's of one sample, for
    every neuron, corrected over all neurons (Benjamini and Hochberg).
    """
    values = discoveries(atlas)
    width = atlas.scores_rel.shape[1]
    return {
        name: int((values[name][flat(getattr(atlas, name), width)] <= level).sum()) for name in SETS
    }


def discoveries(atlas: NeuronAtlas) -> dict[str, Array]:
    """Of every neuron [L * F] the least false-discovery rate at which it is in each set.

    Scores that the atlas did not keep count as zero. Raises BadInput for an atlas without samples'
    scores, or with fewer than two on a side.
    """
    rel, irrel = SideScores.of(atlas, "rel"), SideScores.of(atlas, "irrel")
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
class SideScores:
    """Mean and variance over the samples of a side, of every neuron [L * F]."""

    mean: Array
    variance: Array
    samples: int

    @classmethod
    def of(cls, atlas: NeuronAtlas, side: str) -> SideScores:
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


def flat(pairs: Array, width: int) -> Array:
    """Neurons [n, 2] as layer * F + neuron."""
    places: Array = pairs[:, 0].astype(np.int64) * width + pairs[:, 1]
    return places
