"""Controls: neurons and layers that are chosen without, or against, what mining found.

A method that beats them owes it to the neurons; one that does not owes it to something else.
Source: docs/method.md, Phase 1 and Methods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from neurorit.mining.atlas import SETS, NeuronAtlas
from neurorit.mining.settings import NEURON_CONTROLS

if TYPE_CHECKING:
    from neurorit.model.feed_forward import Site


def control_atlas(
    atlas: NeuronAtlas, control: str, active: np.ndarray | None, seed: int
) -> NeuronAtlas:
    """The atlas with its sets changed, equally many neurons in every layer; others unchanged.

    random-neurons: neurons of no set, drawn from the seed; active-neurons: those of largest value
    (active [L, F]); swapped-groups: P_rel and P_irrel exchanged.
    """
    if control == "swapped-groups":
        return replace(atlas, rel=atlas.irrel, irrel=atlas.rel)
    if control not in NEURON_CONTROLS:
        return atlas
    depth, width = atlas.scores_rel.shape
    if control == "random-neurons":
        order = np.random.default_rng(seed).random((depth, width))
    else:
        assert active is not None
        order = active
    taken = np.empty((0, 2), np.int32)
    if control == "random-neurons":
        every = np.concatenate([getattr(atlas, name) for name in SETS])
        # Where the sets leave too few, the control has to take some of them too.
        if np.bincount(every[:, 0], minlength=depth).max() * 2 <= width:
            taken = every
    chosen: dict[str, Any] = {}
    for name in SETS:
        profile = np.bincount(getattr(atlas, name)[:, 0], minlength=depth)
        chosen[name] = same_profile(profile, order, taken)
        taken = np.concatenate([taken, chosen[name]])
    return replace(atlas, **chosen)


def control_layers(atlas: NeuronAtlas, control: str, count: int, seed: int) -> list[int]:
    """The layers to tune fully: the densest, or what a layer control says."""
    depth = atlas.scores_rel.shape[0]
    if control == "first3":
        return list(range(min(count, depth)))
    if control in ("last3", "as-released"):
        return list(range(max(0, depth - count), depth))
    if control == "random3":
        drawn = np.random.default_rng(seed).permutation(depth)[:count]
        return sorted(int(layer) for layer in drawn)
    return atlas.densest(count)


def same_profile(profile: np.ndarray, score: np.ndarray, without: np.ndarray) -> np.ndarray:
    """Neurons [n, 2]: in each layer the `profile[l]` of highest score [L, F], none of `without`.

    profile [L] counts neurons; without [m, 2].
    """
    left = score.astype(np.float64).copy()
    left[without[:, 0], without[:, 1]] = -np.inf
    found = []
    for layer, count in enumerate(profile.tolist()):
        order = np.argsort(-left[layer], kind="stable")[:count]
        found += [(layer, int(j)) for j in np.sort(order) if np.isfinite(left[layer, j])]
    return np.array(found, dtype=np.int32).reshape(-1, 2)


def activity(
    model: Any,
    prompts: Sequence[Sequence[int]],
    batch_size: int = 16,
    blocks: Site | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Mean size of every neuron's value [L, F] where the answers of `prompts` begin.

    blocks: where the neurons are; None: in the feed-forward blocks.
    """
    from neurorit.model.feed_forward import feed_forward
    from neurorit.model.hooks import recording
    from neurorit.model.shared_prefix import Prefix

    blocks = blocks or feed_forward(model)
    total = np.zeros((blocks.depth, blocks.width))
    for start in range(0, len(prompts), batch_size):
        part = prompts[start : start + batch_size]
        with recording(blocks, last=1) as seen:
            Prefix(model, part, apart=True)
        for layer in range(blocks.depth):
            size = seen[layer][:, -1].abs().double().sum(0)
            total[layer] += size.unflatten(0, (-1, blocks.unit)).mean(1).cpu().numpy()
        if progress is not None:
            progress(start + len(part), len(prompts))
    return total / len(prompts)
