"""Neuron adapters: small trainable deltas for chosen feed-forward neurons beside frozen weights.

A neuron's delta is one row for the gate, one for the up-projection and one column for the
down-projection. Nothing dense gets a gradient or an optimizer state, except the blocks of the
layers that are tuned fully. *Groups* of neurons learn only from their kind of sample, inside a
mixed batch: the other samples see the same values but leave no gradient.

Source: METHOD.md, Phase 2 [P, I]. It knows nothing of losses, optimizers or data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from neurorit.models import FeedForward, feed_forward


@dataclass(frozen=True)
class Group:
    """Neurons [n, 2] as (layer, neuron), and which samples they learn from."""

    neurons: np.ndarray
    from_evidence: bool = True
    from_noise: bool = True


class NeuronAdapters(nn.Module):
    """Deltas of groups of neurons, and fully trained layers, in a model that is otherwise frozen.

    Installing changes no output: deltas start at zero. `samples` must be called before each
    forward pass whose gradients are wanted. `merge` adds the deltas to the weights and takes the
    adapters out again. A neuron in a dense layer is trained with its layer and has no delta.
    """

    def __init__(
        self, model: Any, groups: Mapping[str, Group], dense_layers: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self._blocks = feed_forward(model)
        self._hooks: list[Any] = []
        self._learns: torch.Tensor | None = None
        self.dense_layers = tuple(sorted(set(dense_layers)))
        model.requires_grad_(False)
        for layer in self.dense_layers:
            self._blocks.blocks[layer].requires_grad_(True)
        self.layers = nn.ModuleDict()
        self._adapters: list[_LayerAdapter] = []
        for layer, neurons, masks in _by_layer(groups, self._blocks, self.dense_layers):
            adapter = _LayerAdapter(self._blocks, layer, neurons, masks, lambda: self._learns)
            self.layers[str(layer)] = adapter
            self._adapters.append(adapter)
            self._hooks += adapter.install()

    def samples(self, evidence: torch.Tensor) -> None:
        """Say which samples of the next batch [B] hold evidence (boolean)."""
        self._learns = evidence

    def deltas(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters of the deltas."""
        return list(self.named_parameters())

    def dense(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters of the fully trained layers' blocks."""
        return [
            (f"dense.{layer}.{name}", parameter)
            for layer in self.dense_layers
            for name, parameter in self._blocks.blocks[layer].named_parameters()
        ]

    @torch.no_grad()
    def merge(self) -> None:
        """Add the deltas to the model's weights, in float32, and take the adapters out."""
        for adapter in self._adapters:
            adapter.merge()
        self.remove()

    def remove(self) -> None:
        """Take the adapters out; the deltas are lost unless they were merged."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


class _LayerAdapter(nn.Module):
    """Deltas of the neurons of one layer. masks [2, n]: learns from noise, from evidence."""

    def __init__(
        self,
        blocks: FeedForward,
        layer: int,
        neurons: torch.Tensor,
        masks: torch.Tensor,
        learns: Callable[[], torch.Tensor | None],
    ) -> None:
        super().__init__()
        # In a tuple, so that they do not count as parts, and parameters, of the adapter.
        self._linears = (
            blocks.down(layer),
            blocks.up(layer),
            blocks.gate(layer) or blocks.up(layer),
        )
        down = self._linears[0]
        device, count = down.weight.device, len(neurons)
        self._neurons = neurons.to(device)
        self._masks = masks.to(device)
        self._learns = learns
        hidden, width = down.out_features, down.in_features
        self.up = nn.Parameter(torch.zeros(count, hidden, device=device))
        self.down = nn.Parameter(torch.zeros(hidden, count, device=device))
        gated = blocks.gate(layer) is not None or blocks.fused
        self.gate = nn.Parameter(torch.zeros(count, hidden, device=device)) if gated else None
        # A fused block holds the gate's rows first and the up-projection's after them.
        self._up_rows = self._neurons + width if blocks.fused else self._neurons

    def install(self) -> Iterator[Any]:
        """Hooks that add what the deltas contribute; yields their handles."""
        down, up, gate = self._linears
        if self.gate is not None:
            yield gate.register_forward_hook(
                lambda _m, inputs, out: self._widen(inputs[0], out, self._neurons, self.gate)
            )
        yield up.register_forward_hook(
            lambda _m, inputs, out: self._widen(inputs[0], out, self._up_rows, self.up)
        )
        yield down.register_forward_hook(self._contract)

    def merge(self) -> None:
        down, up, gate = self._linears
        if self.gate is not None:
            _add(gate, self._neurons, self.gate, dim=0)
        _add(up, self._up_rows, self.up, dim=0)
        _add(down, self._neurons, self.down, dim=1)

    def _widen(
        self, x: torch.Tensor, out: torch.Tensor, rows: torch.Tensor, delta: nn.Parameter | None
    ) -> torch.Tensor:
        assert delta is not None
        added = _grouped_linear(x, delta, self._mask(), columns=False)
        return out.index_add(-1, rows, added.to(out.dtype))

    def _contract(
        self, _module: nn.Module, inputs: tuple[torch.Tensor, ...], out: torch.Tensor
    ) -> torch.Tensor:
        values = inputs[0].index_select(-1, self._neurons)
        added = _grouped_linear(values, self.down, self._mask(), columns=True)
        return out + added.to(out.dtype)

    def _mask(self) -> torch.Tensor | None:
        """[B, 1, n]: 1 where a sample teaches a neuron; None where every sample teaches all."""
        learns = self._learns()
        if learns is None or bool(self._masks.all()):
            return None
        return self._masks[learns.to(self._masks.device).long()][:, None, :]


class _GroupedLinear(torch.autograd.Function):
    """x @ weight.T whose gradient of the weight comes from the masked samples only.

    The mask [B, 1, n] lies over the neurons: the output's side of a row delta, the input's side of
    a column delta. The gradient of x is that of a plain linear map.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, mask: torch.Tensor | None, columns: bool
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, mask)
        ctx.columns = columns
        return nn.functional.linear(x, weight.to(x.dtype))

    @staticmethod
    def backward(
        ctx: Any, gradient: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        x, weight, mask = ctx.saved_tensors
        back = None
        if ctx.needs_input_grad[0]:
            back = (gradient @ weight.to(gradient.dtype)).to(x.dtype)
        # Under mixed precision the gradient comes in the output's type, which may be the lower.
        given, seen = gradient, x.to(gradient.dtype)
        if mask is not None and ctx.columns:
            seen = seen * mask.to(seen.dtype)
        elif mask is not None:
            given = gradient * mask.to(gradient.dtype)
        found = given.flatten(0, -2).T @ seen.flatten(0, -2)
        return back, found.to(weight.dtype), None, None


def _grouped_linear(
    x: torch.Tensor, weight: torch.Tensor, mask: torch.Tensor | None, *, columns: bool
) -> torch.Tensor:
    made: torch.Tensor = _GroupedLinear.apply(x, weight, mask, columns)  # type: ignore[no-untyped-call]
    return made


def _by_layer(
    groups: Mapping[str, Group], blocks: FeedForward, dense: Sequence[int]
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Layer, its neurons [n] and their masks [2, n], for every layer that has deltas."""
    for layer in range(blocks.depth):
        if layer in dense:
            continue
        neurons: list[int] = []
        masks: list[tuple[bool, bool]] = []
        for group in groups.values():
            chosen = group.neurons[group.neurons[:, 0] == layer, 1].tolist()
            neurons += chosen
            masks += [(group.from_noise, group.from_evidence)] * len(chosen)
        if len(set(neurons)) != len(neurons):
            raise ValueError(f"layer {layer}: a neuron stands in two groups")
        if neurons:
            yield layer, torch.tensor(neurons), torch.tensor(masks, dtype=torch.float32).T


def _add(linear: nn.Linear, index: torch.Tensor, delta: torch.Tensor, *, dim: int) -> None:
    """Add a delta to chosen rows (0) or columns (1) of a weight, rounding once."""
    weight = linear.weight.data
    chosen = weight.index_select(dim, index).float() + delta
    weight.index_copy_(dim, index, chosen.to(weight.dtype))
