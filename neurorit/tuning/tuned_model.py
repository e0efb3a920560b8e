"""A model with what is trained in it: one forward pass gives the loss on the responses."""

from __future__ import annotations

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


class TunedModel(nn.Module):
    """A model with what is trained in it; returns the summed cross-entropy of the responses."""

    def __init__(
        self, model: Any, trainable: Trainable, shard_on: torch.device | None, mixed: bool
    ) -> None:
        super().__init__()
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
        logits = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=False,
            logits_to_keep=labels.shape[1] + 1,
        ).logits[:, :-1]
        return functional.cross_entropy(
            logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100, reduction="sum"
        )

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
