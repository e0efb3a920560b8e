"""What is mixed into an example, and what cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from neurorit.core.errors import BadInput
from neurorit.data.examples import NOISE

OWN = ("distractor", "random", "counterfactual", "near-duplicate", "injected")
POSITIONS = ("", "first", "middle", "last", "random")


@dataclass(frozen=True)
class MixSettings:
    """What is mixed into an example.

    gold: how many of the gold passages that a question names (0: all of them, for questions whose
    answer takes several). distractor, random, counterfactual, near_duplicate, injected: how many of
    each kind; of several numbers, one is drawn for each example. kinds: the same of registered
    kinds, by name. without_gold: share of examples that get no gold passage (and at least one noisy
    one). depth: ranks searched for distractors.
    within: a field of `meta` (or a path with dots) of which a noisy passage must share a value with
    the question, such as `split`, so that splits stay apart. order: `shuffle` the passages, or keep
    `kind` order (gold, distractor, random, counterfactual, near-duplicate, injected), which
    evaluation wants. position: where in that order the gold passages then stand, `first`, `middle`,
    `last` or at `random` places (empty: where the order has them). limit: only this many questions,
    drawn by the seed (0: all). cross_encoder, margin: a model's folder or name; a distractor that
    it scores higher than the gold passage less the margin is left out too.
    """

    gold: int = 1
    distractor: tuple[int, ...] = (1, 2, 3, 4)
    random: tuple[int, ...] = (0, 0, 1)
    counterfactual: tuple[int, ...] = (0,)
    near_duplicate: tuple[int, ...] = (0,)
    injected: tuple[int, ...] = (0,)
    kinds: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    without_gold: float = 0.4
    depth: int = 50
    within: str = ""
    order: Literal["shuffle", "kind"] = "shuffle"
    position: Literal["", "first", "middle", "last", "random"] = ""
    limit: int = 0
    cross_encoder: str = ""
    margin: float = 0.0


@dataclass(frozen=True)
class PoolSettings(MixSettings):
    """The pools from which evaluation builds its conditions: every kind, in the order of kinds."""

    distractor: tuple[int, ...] = (4,)
    random: tuple[int, ...] = (4,)
    counterfactual: tuple[int, ...] = (1,)
    near_duplicate: tuple[int, ...] = (1,)
    injected: tuple[int, ...] = (1,)
    without_gold: float = 0.0
    order: Literal["shuffle", "kind"] = "kind"


def check_settings(settings: MixSettings) -> None:
    """Raise BadInput for settings that cannot be."""
    for kind in OWN:
        numbers = getattr(settings, kind.replace("-", "_"))
        if not numbers or min(numbers) < 0:
            raise BadInput(f"mix: {kind} must hold numbers of passages, 0 or more")
    for kind, numbers in settings.kinds.items():
        NOISE.check(kind, "mix: kinds")
        if kind in OWN:
            raise BadInput(
                f"mix: kinds: {kind} has a setting of its own, `{kind.replace('-', '_')}`"
            )
        if not numbers or min(numbers) < 0:
            raise BadInput(f"mix: kinds: {kind} must hold numbers of passages, 0 or more")
    if not 0.0 <= settings.without_gold <= 1.0:
        raise BadInput("mix: without_gold is a share, from 0 to 1")
    if settings.position not in POSITIONS:
        raise BadInput(f"mix: position is one of {', '.join(POSITIONS[1:])}, or empty")
    if settings.depth < 1 or settings.limit < 0 or settings.gold < 0:
        raise BadInput("mix: depth must be at least 1, limit and gold at least 0")
