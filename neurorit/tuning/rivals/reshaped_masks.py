"""The masks of the released code, which train other weights than those of the mined neurons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from neurorit.core.errors import BadInput
from neurorit.model.feed_forward import feed_forward
from neurorit.tuning.hold import Copies


class ReshapedMasks(nn.Module):
    """The weights that learn where masks are reshaped to the weight's shape, not transposed.

    For rows of gate and up [F, d] a mask of shape [d, F] has the neurons' columns set, for columns
    of down [d, F] one of shape [F, d] their rows. Reshaped, it still leaves d weights a neuron, but
    on average only d / F of them are the neuron's own. A control for replication.

    neurons [n, 2]; dense_layers: trained fully; gate: whether gates learn at all.
    Source: docs/method.md, "What was released" [R].
    """

    def __init__(
        self, model: Any, neurons: np.ndarray, dense_layers: Sequence[int], *, gate: bool
    ) -> None:
        super().__init__()
        model.requires_grad_(False)
        blocks = feed_forward(model)
        if blocks.fused:
            raise BadInput("‹method=as-released›: this model keeps gate and up in one matrix")
        self._linears: list[nn.Linear] = []
        self._dense: list[tuple[str, nn.Parameter]] = []
        self._added: list[_Added] = []
        self._merged: list[tuple[nn.Linear, _Added, list[torch.Tensor]]] = []
        self._copies: Copies | None = None
        self.values = nn.ParameterDict()
        for layer in range(blocks.depth):
            linears = {"up": blocks.up(layer), "down": blocks.down(layer)}
            gates = blocks.gate(layer)
            if gate and gates is not None:
                linears["gate"] = gates
            if layer in dense_layers:
                for name, linear in linears.items():
                    for kind, parameter in linear.named_parameters():
                        self._dense.append((f"dense.{layer}.{name}.{kind}", parameter))
                        parameter.requires_grad_(True)
                continue
            chosen = torch.from_numpy(neurons[neurons[:, 0] == layer, 1].astype(np.int64))
            if not len(chosen):
                continue
            for name, linear in linears.items():
                device = linear.weight.device
                hidden = blocks.down(layer).out_features
                places = _reshaped(chosen, hidden, blocks.width, rows=name == "down")
                added = _Added(places.to(device), device)
                parametrize.register_parametrization(linear, "weight", added)
                self.values[f"{layer}-{name}"] = added.value
                self._added.append(added)
                self._linears.append(linear)

    def samples(self, kinds: torch.Tensor) -> None:
        """Every sample teaches every weight."""

    def scattered(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters of what is added to the weights that the masks leave."""
        return list(self.values.items())

    def dense(self) -> list[tuple[str, nn.Parameter]]:
        """Names and weights of the fully trained layers."""
        return self._dense

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters that are trained."""
        return self.scattered() + self.dense()

    def keep_base(self) -> None:
        """Keep a frozen copy of the fully trained layers."""
        self._copies = Copies(parameter for _, parameter in self.dense())

    @contextmanager
    def base(self) -> Iterator[None]:
        """Nothing is added, and the copies stand in the fully trained layers."""
        assert self._copies is not None
        for added in self._added:
            added.off = True
        self._put(0)
        try:
            with self._copies.in_place():
                yield
        finally:
            self._put(1)
            for added in self._added:
                added.off = False

    def merge(self) -> None:
        """Leave what was learned in the model's plain weights."""
        for linear, added in zip(self._linears, self._added, strict=True):
            kept: Any = linear.parametrizations
            stored, learned = kept.weight.original.detach(), linear.weight.detach()
            values = [added.at_places(weight) for weight in (stored, learned)]
            parametrize.remove_parametrizations(linear, "weight", leave_parametrized=True)
            self._merged.append((linear, added, values))

    @torch.no_grad()
    def _put(self, which: int) -> None:
        """At the merged weights' places: 0 what stood before, 1 what was learned."""
        for linear, added, values in self._merged:
            linear.weight.data.view(-1)[added.places] = values[which]


class _Added(nn.Module):
    """Adds a trained value to each of some places [n] of a flattened weight."""

    def __init__(self, places: torch.Tensor, device: torch.device) -> None:
        super().__init__()
        self.places = places
        self.off = False
        self.value = nn.Parameter(torch.zeros(len(places), device=device))

    def at_places(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight's values [n] at the places."""
        return weight.flatten()[self.places].clone()

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        if self.off:
            return weight
        flat = weight.float().flatten().index_add(0, self.places, self.value)
        return flat.view_as(weight).to(weight.dtype)


def _reshaped(chosen: torch.Tensor, hidden: int, width: int, *, rows: bool) -> torch.Tensor:
    """Places in a flattened weight that a mask of the chosen neurons leaves, once reshaped.

    rows: of a mask [F, d], which is down's; else columns of one [d, F], which is up's and gate's.
    """
    along = torch.arange(hidden)
    places = chosen[:, None] * hidden + along if rows else along[:, None] * width + chosen
    return places.flatten()
