"""The rivals behind the same door as the method: full fine-tuning and LoRA.

Both get the same data and the same number of steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class FullTuning:
    """Every weight is trained."""

    def __init__(self, model: Any) -> None:
        model.requires_grad_(True)
        self.model = model

    def samples(self, evidence: torch.Tensor) -> None:
        """Every sample teaches every weight."""

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters that are trained."""
        return list(self.model.named_parameters())

    def merge(self) -> None:
        """Nothing to merge."""


class LoraTuning:
    """Low-rank deltas on every linear layer (Hu et al. 2021), by peft."""

    def __init__(self, model: Any, rank: int, alpha: int) -> None:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear")
        self._wrapped = get_peft_model(model, config)

    def samples(self, evidence: torch.Tensor) -> None:
        """Every sample teaches every weight."""

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters that are trained."""
        named = self._wrapped.named_parameters()
        return [(name, parameter) for name, parameter in named if parameter.requires_grad]

    def merge(self) -> None:
        """Add the deltas to the model's weights, in place."""
        self._wrapped.merge_and_unload()
