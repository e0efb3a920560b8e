"""What is mixed into an example, and what cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from neurorit.core.errors import BadInput
from neurorit.core.settings import AtLeastOne, Count, Settings, Share
from neurorit.data.examples import NOISE

OWN = ("distractor", "random", "counterfactual", "near-duplicate", "injected")


@dataclass(frozen=True)
class MixSettings(Settings):
    """What is mixed into an example. Of a kind with several numbers, one is drawn for each."""

    gold: Count = 1
    """Gold passages, of those that a question names; 0: all, for answers that take several."""
    distractor: tuple[Count, ...] = (1, 2, 3, 4)
    """Passages near the question that do not answer it."""
    random: tuple[Count, ...] = (0, 0, 1)
    """Passages drawn from the corpus."""
    counterfactual: tuple[Count, ...] = (0,)
    """Gold passages with another answer in place of the right one."""
    near_duplicate: tuple[Count, ...] = (0,)
    """Gold passages without the sentence that answers."""
    injected: tuple[Count, ...] = (0,)
    """Passages with a command to the model in them."""
    kinds: Mapping[str, tuple[Count, ...]] = field(default_factory=dict)
    """How many of registered kinds, by name."""
    without_gold: Share = 0.4
    """Share of examples that get no gold passage, and at least one noisy one."""
    depth: AtLeastOne = 50
    """Ranks searched for distractors."""
    within: str = ""
    """Field of `meta` (or a path with dots) of which a noisy passage must share a value with the
    question, such as `split`, so that splits stay apart."""
    order: Literal["shuffle", "kind"] = "shuffle"
    """shuffle the passages, or keep the order of kinds, which evaluation wants."""
    position: Literal["", "first", "middle", "last", "random"] = ""
    """Where in that order gold passages then stand; empty: where the order has them."""
    limit: Count = 0
    """Only this many questions, drawn by the seed; 0: all."""
    cross_encoder: str = ""
    """A model's folder or name; a distractor that it scores higher than the gold passage, less the
    margin, is left out too."""
    margin: float = 0.0
    """That margin, in the cross-encoder's scores."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind in OWN:
            name = kind.replace("-", "_")
            if not getattr(self, name):
                raise BadInput(f"‹{name}› must hold numbers of passages, 0 or more")
        for kind, numbers in self.kinds.items():
            NOISE.check(kind, "‹kinds›")
            if kind in OWN:
                raise BadInput(
                    f"‹kinds›: {kind} has a setting of its own, ‹{kind.replace('-', '_')}›"
                )
            if not numbers:
                raise BadInput(f"‹kinds›: {kind} must hold numbers of passages, 0 or more")


@dataclass(frozen=True)
class PoolSettings(MixSettings):
    """The pools from which evaluation builds its conditions: every kind, in the order of kinds."""

    distractor: tuple[Count, ...] = (4,)
    random: tuple[Count, ...] = (4,)
    counterfactual: tuple[Count, ...] = (1,)
    near_duplicate: tuple[Count, ...] = (1,)
    injected: tuple[Count, ...] = (1,)
    without_gold: Share = 0.0
    order: Literal["shuffle", "kind"] = "kind"
