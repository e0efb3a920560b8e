"""Full fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from neurorit.tuning.hold import Copies


class FullTuning:
    """Every weight is trained."""

    def __init__(self, model: Any) -> None:
        model.requires_grad_(True)
        self.model = model
        self._copies: Copies | None = None

    def samples(self, kinds: torch.Tensor) -> None:
        """Every sample teaches every weight."""

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters that are trained."""
        return list(self.model.named_parameters())

    def keep_base(self) -> None:
        """Keep a frozen copy of every weight."""
        self._copies = Copies(parameter for _, parameter in self.trained())

    @contextmanager
    def base(self) -> Iterator[None]:
        """The copies in the weights' places."""
        assert self._copies is not None
        with self._copies.in_place():
            yield

    def merge(self) -> None:
        """Nothing to merge."""
