"""Structured sparse tuning: a few whole channels of feed-forward blocks, and a few attention heads.

Trained are columns of the down-projections (a channel's way out) and of the attention's output
projections (a head's), drawn at random in every layer, from every sample (Yang et al. 2024, S2FT).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from neurorit.model.feed_forward import Lines, attention_heads, feed_forward
from neurorit.tuning.neuron_adapter import Delta


class S2ft(nn.Module):
    """Deltas of columns, as near to `parameters` as whole heads and channels allow.

    Half of them are heads', at least one head a layer; channels fill the rest. seed: of the draw.
    """

    def __init__(self, model: Any, parameters: int, seed: int, device: Any = None) -> None:
        super().__init__()
        model.requires_grad_(False)
        blocks, heads = feed_forward(model), attention_heads(model)
        hidden, depth = blocks.down(0).out_features, blocks.depth
        rng = np.random.default_rng(seed)
        budget = parameters / (hidden * depth)  # columns of a layer
        of_heads = min(heads.width, max(1, round(budget / 2 / heads.unit)))
        channels = min(blocks.width, max(1, round(budget - of_heads * heads.unit)))
        self.values = nn.ParameterDict()
        self.deltas: list[Delta] = []
        self._hooks: list[Any] = []
        self._off = False
        for layer in range(depth):
            drawn = np.sort(rng.permutation(heads.width)[:of_heads])
            channel = np.sort(rng.permutation(blocks.width)[:channels])
            place = device or blocks.down(layer).weight.device
            columns = {
                "heads": heads.lines(layer, torch.tensor(drawn, device=place))[0],
                "channels": Lines(
                    "down", blocks.down(layer), torch.tensor(channel, device=place), 1
                ),
            }
            for name, own in columns.items():
                value = nn.Parameter(torch.zeros(hidden, len(own.index), device=place))
                self.values[f"{layer}-{name}"] = value
                delta = Delta(own.linear, own.index, value, own.dim)
                self.deltas.append(delta)
                self._hooks.append(own.linear.register_forward_hook(delta.tap()))
        self._hooks.append(model.register_forward_pre_hook(lambda _model, _inputs: self._write()))

    def samples(self, kinds: torch.Tensor) -> None:
        """Every sample teaches every column."""

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters that are trained."""
        return list(self.values.items())

    def keep_base(self) -> None:
        """Nothing to keep beyond what the deltas do."""

    @contextmanager
    def base(self) -> Iterator[None]:
        """The columns are those of before."""
        self._off = True
        for delta in self.deltas:
            delta.undo()
        try:
            yield
        finally:
            self._off = False
            self._write()

    def merge(self) -> None:
        """Leave the deltas in the model's weights."""
        self._write()
        for hook in self._hooks:
            hook.remove()

    def _write(self) -> None:
        if not self._off:
            for delta in self.deltas:
                delta.write()
