"""Choosing neurons: what a rule is given, and what becomes of its choice.

A rule is given an atlas and a budget and says which neurons are P_rel, P_irrel and P_shared. None
of them mines anything; what a rule wants beside the samples' scores is measured when it asks, and
kept in the atlas, so that the next choice needs no model.

Source: docs/method.md, Phase 1, steps 3 and 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurorit.core.errors import BadInput
from neurorit.mining.atlas import SETS, NeuronAtlas
from neurorit.mining.selection.discovery import LEVEL
from neurorit.mining.settings import SELECTIONS

Array = NDArray[Any]
Measure = Callable[[str], Mapping[str, Array]]


@dataclass(frozen=True)
class Evidence:
    """What a rule chooses by.

    budget: neurons, over all layers: K of either side, or `together` of all sets. level: the share
    of false discoveries that is borne. measure: takes the name of a field of the atlas that holds
    what was measured (atlas.MEASURED), and gives it, with what was measured along with it;
    listed: set -> neurons [n, 2] of a file. sizes: neurons of each set, in place of the budget.
    """

    atlas: NeuronAtlas
    budget: int
    level: float = LEVEL
    seed: int = 0
    together: bool = False
    measure: Measure | None = None
    listed: Mapping[str, Array] | None = None
    sizes: Mapping[Any, int] = field(default_factory=dict)
    found: dict[str, Array] = field(default_factory=dict, repr=False)

    def measured(self, name: str) -> Array:
        """[L, F] of one of atlas.MEASURED: the atlas's, or measured now.

        Raises BadInput where the atlas has none and nothing can be measured.
        """
        kept: Array = self.found.get(name, getattr(self.atlas, name))
        if kept.size:
            return kept
        if self.measure is None:
            what, _, of = name.partition("_")
            text = ", and other text (‹general›)" if of == "general" else ""
            raise BadInput(
                f"selection: it needs the {what}{of and f's ({of})'}, which the atlas does not "
                f"keep yet, so give it the model and the examples (‹model›, ‹examples›){text}"
            )
        self.found.update(self.measure(name))
        return self.found[name]


Rule = Callable[[Evidence], Mapping[str, Array]]


def select(evidence: Evidence, rule: str) -> NeuronAtlas:
    """The atlas with the neurons that a rule takes, and with what was measured for it.

    Scores and counts stay as they were mined.

    Raises BadInput for an unknown rule, for one that lacks what it chooses by, and where nothing is
    chosen.
    """
    choose: Rule = SELECTIONS.get(rule, "selection")
    sets: Mapping[str, Any] = _checked(choose(evidence), evidence, rule)
    if not sum(len(chosen) for chosen in sets.values()):
        raise BadInput(
            f"selection {rule}: no neuron is left; raise the budget or the false-discovery level"
        )
    measured: Mapping[str, Any] = evidence.found
    return replace(evidence.atlas, **sets, **measured)


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
    given = {name: len(pairs) for name, pairs in checked.items()}
    if evidence.sizes and given != dict(evidence.sizes):
        raise BadInput(
            f"selection {rule}: it took {given} neurons, not ‹sizes› {dict(evidence.sizes)}; "
            "take a rule that ranks the two sides apart, such as count, and sizes that it can fill"
        )
    if evidence.together and len(every) > evidence.budget:
        raise BadInput(
            f"selection {rule}: it took {len(every)} neurons, more than the {evidence.budget} of "
            "the budget; take no more, or set `share` in place of `neurons`"
        )
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
