"""A model with what is trained in it: one forward pass gives the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional


class Trainable(Protocol):
    """What is trained in a model: adapters, everything, or low-rank deltas."""

    def samples(self, evidence: torch.Tensor) -> None:
        """Told before each forward pass: which samples [B] hold evidence."""
        ...

    def merge(self) -> None:
        """Put what was learned into the model's plain weights."""
        ...


@dataclass(frozen=True)
class Forward:
    """One forward pass, as a loss term sees it.

    tuned: the model with what is trained in it; inputs: what it was given; logits [B, R,
    vocabulary] at the responses' positions; labels [B, R], -100 where nothing is learned; evidence
    [B]: which samples hold any.
    """

    tuned: TunedModel
    inputs: Mapping[str, torch.Tensor]
    logits: torch.Tensor
    labels: torch.Tensor
    evidence: torch.Tensor


LossTerm = Callable[[Forward], torch.Tensor]
"""Gives the loss, summed over the tokens that are learned."""


def cross_entropy(given: Forward) -> torch.Tensor:
    """Of the responses' tokens."""
    return functional.cross_entropy(
        given.logits.flatten(0, 1).float(),
        given.labels.flatten(),
        ignore_index=-100,
        reduction="sum",
    )


def cross_entropy_by_sample(given: Forward) -> torch.Tensor:
    """The same, with every sample of the batch as heavy as another, however long its response.

    Batches that are accumulated, or on other processes, still weigh by their tokens.
    """
    losses = functional.cross_entropy(
        given.logits.transpose(1, 2).float(), given.labels, ignore_index=-100, reduction="none"
    )
    learned = given.labels.ne(-100).sum(1)
    # The sum is divided by the number of tokens afterwards.
    return (losses.sum(1) / learned).mean() * learned.sum()


class TunedModel(nn.Module):
    """A model with what is trained in it; returns the weighted sum of the loss terms.

    losses: pairs of a term and its weight.
    """

    def __init__(
        self,
        model: Any,
        trainable: Trainable,
        shard_on: torch.device | None,
        mixed: bool,
        losses: Sequence[tuple[LossTerm, float]] = ((cross_entropy, 1.0),),
    ) -> None:
        super().__init__()
        self.losses = losses
        self.model = model
        self.trainable = trainable
        self.config = model.config
        self.shard_on, self.mixed = shard_on, mixed

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        labels: torch.Tensor,
        evidence: torch.Tensor,
    ) -> torch.Tensor:
        self.trainable.samples(evidence)
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
        }
        kept = labels.shape[1] + 1
        logits = self.model(**inputs, use_cache=False, logits_to_keep=kept).logits[:, :-1]
        given = Forward(self, inputs, logits, labels, evidence)
        terms = [weight * term(given) for term, weight in self.losses]
        return torch.stack(terms).sum() if len(terms) > 1 else terms[0]

    def gradient_checkpointing_enable(self, **_: Any) -> None:
        """The Trainer asks for it; re-entrant checkpoints would need inputs with gradients."""
        self.model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )


class ShardedModel(nn.Module):
    """In the place of accelerate's wrapping, for a model that is sharded already."""

    def __init__(self, tuned: TunedModel) -> None:
        super().__init__()
        self.module = tuned

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        device = self.module.shard_on
        assert device is not None
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.module.mixed):
            summed: torch.Tensor = self.module(**inputs)
        return summed
