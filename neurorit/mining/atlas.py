"""The neuron atlas: which neurons answer to relevant and to irrelevant context, as an artifact.

It keeps the three sets, the scores and counts behind them, each layer's density, and how stable
each choice is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurorit.core.artifact import Manifest, read_manifest, writing
from neurorit.core.errors import BadInput

TENSORS = "atlas.safetensors"
SETS = ("rel", "irrel", "shared")
FEED_FORWARD = "feed-forward"
# What selections measure beside the samples' scores, when they ask for it.
MEASURED = ("gradient_rel", "gradient_irrel", "gradient_mixed", "gradient_general", "activity")
Array = NDArray[Any]


def _nothing() -> Array:
    return np.empty((0, 0), np.float32)


@dataclass(frozen=True, repr=False)
class NeuronAtlas:
    """Mined neurons of a model with L layers of F neurons.

    rel, irrel, shared [n, 2]: (layer, neuron) of P_rel, P_irrel and P_shared. scores_rel,
    scores_irrel [L, F]: summed kept attribution; counts_rel, counts_irrel [L, F]: samples that
    kept the neuron; stability_rel, stability_irrel [L, F]: share of bootstrap resamples in which
    the neuron is chosen again; residuals [samples]: completeness residual of each. sample_SIDE:
    the samples' own scores, those of sample i between sample_ends[i] and sample_ends[i + 1]:
    sample_neurons [n], as layer * F + neuron, and sample_scores [n]; empty where none were kept.
    gradient_rel, gradient_irrel, gradient_mixed, gradient_general [L, F]: mean squared gradient of
    the training loss with respect to each neuron's weights, on samples with evidence, without, on
    all of them, and of the loss on other text; activity [L, F]: mean size of the neurons' values
    where answers begin. They are empty until a selection asks for them.
    model: the digest of the weights it was mined from; site: where in the model its neurons are.
    """

    rel: Array
    irrel: Array
    shared: Array
    scores_rel: Array
    scores_irrel: Array
    counts_rel: Array
    counts_irrel: Array
    stability_rel: Array
    stability_irrel: Array
    residuals: Array
    sample_ends_rel: Array = field(default_factory=lambda: np.zeros(1, np.int64))
    sample_ends_irrel: Array = field(default_factory=lambda: np.zeros(1, np.int64))
    sample_neurons_rel: Array = field(default_factory=lambda: np.empty(0, np.int32))
    sample_neurons_irrel: Array = field(default_factory=lambda: np.empty(0, np.int32))
    sample_scores_rel: Array = field(default_factory=lambda: np.empty(0, np.float32))
    sample_scores_irrel: Array = field(default_factory=lambda: np.empty(0, np.float32))
    gradient_rel: Array = field(default_factory=_nothing)
    gradient_irrel: Array = field(default_factory=_nothing)
    gradient_mixed: Array = field(default_factory=_nothing)
    gradient_general: Array = field(default_factory=_nothing)
    activity: Array = field(default_factory=_nothing)
    model: str = ""
    site: str = FEED_FORWARD

    def __repr__(self) -> str:
        depth, width = self.scores_rel.shape
        sets = ", ".join(f"{len(getattr(self, name))} {name}" for name in SETS)
        residual = f"median residual {float(np.median(self.residuals)):.2%}"
        return f"NeuronAtlas({depth} layers of {width} neurons: {sets}; {residual})"

    @property
    def density(self) -> Array:
        """[L]: |(P_shared or P_irrel) in layer| / F, the measure that picks dense layers [P]."""
        depth, width = self.scores_rel.shape
        layers = np.concatenate([self.shared[:, 0], self.irrel[:, 0]]).astype(np.int64)
        found: Array = np.bincount(layers, minlength=depth) / width
        return found

    def densest(self, count: int) -> list[int]:
        """The `count` densest layers in ascending order; ties go to the lower layer."""
        order = np.argsort(-self.density, kind="stable")[:count]
        return sorted(int(layer) for layer in order)

    def check_shape(
        self, depth: int, width: int, place: object = "the atlas", site: str = FEED_FORWARD
    ) -> None:
        """Raise BadInput unless it is of a model of `depth` layers of `width` neurons of that site.

        Feed-forward ones are what can be tuned.
        """
        if self.site != site:
            raise BadInput(f"{place} is of the site {self.site}; it is to be {site}")
        if self.scores_rel.shape != (depth, width):
            raise BadInput(
                f"{place} is of another model: {self.scores_rel.shape[0]} layers of "
                f"{self.scores_rel.shape[1]} neurons, not {depth} of {width}"
            )

    @classmethod
    def load(cls, directory: str | PathLike[str]) -> NeuronAtlas:
        """Load an atlas; raises ArtifactError when it is missing, changed or of another kind."""
        from safetensors.numpy import load_file

        made = read_manifest(Path(directory), "atlas")
        return cls(
            **load_file(Path(directory) / TENSORS),
            model=made.inputs.get("model", ""),
            site=made.settings.get("site", FEED_FORWARD),
        )

    def save(
        self,
        out: str | PathLike[str],
        manifest: Manifest | None = None,
        *,
        overwrite: bool = False,
    ) -> None:
        """Write the artifact; the same atlas gives the same bytes.

        manifest: how it was made; without, it says of what weights and where its neurons are.
        """
        from safetensors.numpy import save_file

        if manifest is None:
            manifest = Manifest(
                kind="atlas",
                command="NeuronAtlas.save",
                settings={"site": self.site},
                inputs={"model": self.model},
            )
        with writing(Path(out), manifest, overwrite=overwrite) as directory:
            save_file(self._tensors(), directory / TENSORS)

    @property
    def digest(self) -> str:
        """SHA-256 over its tensors."""
        from safetensors.numpy import save

        return hashlib.sha256(save(self._tensors())).hexdigest()

    def _tensors(self) -> dict[str, Array]:
        left_out = {"model", "site", *(name for name in MEASURED if not getattr(self, name).size)}
        own = {name: value for name, value in vars(self).items() if name not in left_out}
        return {name: np.ascontiguousarray(value) for name, value in own.items()}


def choose_sets(chosen_rel: Array, chosen_irrel: Array) -> Mapping[str, Any]:
    """P_rel, P_irrel and P_shared [n, 2] from the boolean choices [L, F] [P]."""
    return {
        "rel": np.argwhere(chosen_rel & ~chosen_irrel).astype(np.int32),
        "irrel": np.argwhere(chosen_irrel & ~chosen_rel).astype(np.int32),
        "shared": np.argwhere(chosen_rel & chosen_irrel).astype(np.int32),
    }


def overlap(one: NeuronAtlas, other: NeuronAtlas) -> dict[str, float]:
    """Jaccard index of each set and, as `scores_SIDE`, the rank correlation of summed scores.

    Two empty sets overlap fully. Raises BadInput for atlases of different shapes.
    """
    depth, width = one.scores_rel.shape
    other.check_shape(depth, width, "the second atlas", one.site)
    found = {}
    for name in SETS:
        a, b = ({tuple(pair) for pair in getattr(x, name).tolist()} for x in (one, other))
        found[name] = len(a & b) / len(a | b) if a | b else 1.0
    for side in ("scores_rel", "scores_irrel"):
        found[side] = _rank_correlation(getattr(one, side), getattr(other, side))
    return found


def _rank_correlation(a: Array, b: Array) -> float:
    """Spearman's over the neurons that either atlas scored; 0 where nothing varies."""
    from scipy.stats import spearmanr

    scored = (a != 0) | (b != 0)
    if scored.sum() < 2 or min(np.ptp(x[scored]) for x in (a, b)) == 0:
        return 0.0
    return float(spearmanr(a[scored], b[scored]).statistic)


def plot(atlas: NeuronAtlas, out: Path) -> None:
    """Draw the distribution of the three sets over layers, with the density, to .svg or .png."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    depth = atlas.scores_rel.shape[0]
    layers = np.arange(depth)
    colours = {"rel": "#2f6f9f", "irrel": "#c0582f", "shared": "#8a8a8a"}
    labels = {"rel": "P_rel", "irrel": "P_irrel", "shared": "P_shared"}
    with rc_context({"svg.hashsalt": "neurorit", "font.size": 9}):
        figure = Figure(figsize=(7, 3), layout="constrained")
        axes = figure.subplots()
        bottom = np.zeros(depth)
        for name in SETS:
            counts = np.bincount(getattr(atlas, name)[:, 0].astype(np.int64), minlength=depth)
            axes.bar(layers, counts, bottom=bottom, color=colours[name], label=labels[name])
            bottom += counts
        density = axes.twinx()
        density.plot(layers, 100 * atlas.density, color="#222222", marker="o", markersize=3)
        density.set_ylabel("density, % (line)")
        density.set_ylim(bottom=0)
        axes.set_xlabel("layer")
        axes.set_ylabel("neurons")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.15))
        figure.savefig(out, metadata={"Date": None} if Path(out).suffix == ".svg" else None)
