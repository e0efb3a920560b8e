"""A model with what is trained in it: one forward pass gives the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional

_SHORT = 0.75  # of a batch's width, below which samples that are only held are read apart


class Trainable(Protocol):
    """What is trained in a model: adapters, everything, or low-rank deltas."""

    def samples(self, kinds: torch.Tensor) -> None:
        """Told before each forward pass: of each sample [B] 1 where it holds evidence, 0 where it
        does not, 2 where it is held and not learned."""
        ...

    def keep_base(self) -> None:
        """Asked before training where `base` will be: keep what is needed for it."""
        ...

    def base(self) -> AbstractContextManager[None]:
        """For a while, also after `merge`, the model computes what it did before this training."""
        ...

    def merge(self) -> None:
        """Put what was learned into the model's plain weights."""
        ...


@dataclass(frozen=True)
class Forward:
    """One forward pass, as a loss term sees it.

    tuned: the model with what is trained in it; inputs: what it was given; logits [B, R,
    vocabulary] at the responses' positions; labels [B, R], -100 where nothing is learned; evidence
    [B]: which samples hold any; held [B, R]: where the base's answer is to stay, None for nowhere.
    """

    tuned: TunedModel
    inputs: Mapping[str, torch.Tensor]
    logits: torch.Tensor
    labels: torch.Tensor
    evidence: torch.Tensor
    held: torch.Tensor | None = None

    def base_logits(self, rows: torch.Tensor) -> torch.Tensor:
        """The base model's logits [n, R, vocabulary] of some samples; rows [B]: which, boolean."""
        kept = self.labels.shape[1] + 1
        return self.tuned.base_logits(_rows(self.inputs, rows, kept), kept)


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
    some = learned > 0
    # The sum is divided by the number of tokens afterwards.
    return (losses.sum(1)[some] / learned[some]).mean() * learned.sum()


def kl_to_base(given: Forward) -> torch.Tensor:
    """KL(base || tuned) in nats over the whole vocabulary, a mean over the batch's held tokens."""
    if given.held is None or not given.held.any():
        return given.logits.new_zeros((), dtype=torch.float32)
    rows = given.held.any(1)
    held = given.held[rows]
    base = given.base_logits(rows)[held].float().log_softmax(-1)
    tuned = given.logits[rows][held].float().log_softmax(-1)
    divergence = (base.exp() * (base - tuned)).sum(-1).mean()
    # The sum is divided by the number of learned tokens afterwards.
    return divergence * given.labels.ne(-100).sum()


def _rows(
    inputs: Mapping[str, torch.Tensor], rows: torch.Tensor, kept: int
) -> dict[str, torch.Tensor]:
    """Some samples [n, T] of a batch that is padded on the left, without what is padding in all.

    At least `kept` positions stay, of which logits are wanted.
    """
    chosen = {name: values[rows] for name, values in inputs.items()}
    lengths = chosen["attention_mask"].sum(1).tolist()
    width = max(kept, *lengths)
    return {name: values[:, -width:] for name, values in chosen.items()}


class TunedModel(nn.Module):
    """A model with what is trained in it; returns the weighted sum of the loss terms.

    losses: pairs of a term and its weight. earlier: what was trained before and is merged already;
    without it too the model is the base.
    """

    def __init__(
        self,
        model: Any,
        trainable: Trainable,
        shard_on: torch.device | None,
        mixed: bool,
        losses: Sequence[tuple[LossTerm, float]] = ((cross_entropy, 1.0),),
        earlier: Sequence[Trainable] = (),
    ) -> None:
        super().__init__()
        self.earlier = tuple(earlier)
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
        held: torch.Tensor | None = None,
        learned: torch.Tensor | None = None,
    ) -> torch.Tensor:
        kinds = evidence.long()
        if learned is not None:
            kinds = kinds.masked_fill(~learned, 2)
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
        }
        kept = labels.shape[1] + 1
        if learned is not None and self._part(attention_mask, learned):
            passes = [learned, ~learned]
            parts = [self._logits(_rows(inputs, rows, kept), kinds[rows], kept) for rows in passes]
            logits = torch.cat(parts)
            if learned[: len(parts[0])].logical_not().any():  # as collated, what is held comes last
                places = torch.cat([rows.nonzero().flatten() for rows in passes])
                logits = logits[places.argsort()]
        else:
            logits = self._logits(inputs, kinds, kept)
        given = Forward(self, inputs, logits, labels, evidence, held)
        terms = [weight * term(given) for term, weight in self.losses]
        return torch.stack(terms).sum() if len(terms) > 1 else terms[0]

    def _logits(
        self, inputs: Mapping[str, torch.Tensor], kinds: torch.Tensor, kept: int
    ) -> torch.Tensor:
        self.trainable.samples(kinds)
        found: torch.Tensor = self.model(**inputs, use_cache=False, logits_to_keep=kept).logits
        return found[:, :-1]

    def _part(self, mask: torch.Tensor, learned: torch.Tensor) -> bool:
        """Whether what is only held is so short that a pass of its own takes less than padding."""
        if learned.all() or not learned.any():
            return False
        if getattr(
            self.model, "is_gradient_checkpointing", False
        ):  # the second pass would be recomputed as the last
            return False
        return int(mask[~learned].sum(1).max()) < _SHORT * mask.shape[1]

    @torch.no_grad()
    def base_logits(self, inputs: Mapping[str, torch.Tensor], kept: int) -> torch.Tensor:
        """The base model's logits at the last `kept` positions but the last one."""
        training = self.model.training
        # Autocast keeps casts by parameter, whatever its values are since: without this the tuned
        # model would be compared with itself, and learn through casts that were made here.
        torch.clear_autocast_cache()
        try:
            with ExitStack() as stack:
                for trainable in (self.trainable, *reversed(self.earlier)):
                    stack.enter_context(trainable.base())
                self.model.eval()
                logits = self.model(**inputs, use_cache=False, logits_to_keep=kept).logits[:, :-1]
        finally:
            torch.clear_autocast_cache()
            self.model.train(training)
        found: torch.Tensor = logits
        return found

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
