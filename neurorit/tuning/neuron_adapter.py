"""Neuron adapters: small trainable deltas for chosen neurons beside frozen weights.

A feed-forward neuron's delta is one row for the gate, one for the up-projection and one column for
the down-projection; an attention head's, its columns of the output projection. Nothing dense gets a
gradient or an optimizer state, except the blocks of the layers that are tuned fully. *Groups* of
neurons learn only from their kind of sample, inside a mixed batch: the other samples see the same
values but leave no gradient.

Source: docs/method.md, Phase 2 [P, I].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from neurorit.mining.atlas import FEED_FORWARD
from neurorit.mining.settings import SITES
from neurorit.model.distributed.weights import first_row, local_shard
from neurorit.model.feed_forward import Lines, Site
from neurorit.tuning.hold import Copies


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
    device: of the deltas, where the model is to be moved or spread there later; else its own.
    site: where the neurons are, which says what a dense layer's block is, too.
    """

    def __init__(
        self,
        model: Any,
        groups: Mapping[str, Group],
        dense_layers: Sequence[int] = (),
        device: torch.device | None = None,
        site: str = FEED_FORWARD,
    ) -> None:
        super().__init__()
        self._blocks: Site = SITES.get(site)(model)
        self._hooks: list[Any] = []
        self._learns: torch.Tensor | None = None
        self._copies: Copies | None = None
        self._off = False
        self.dense_layers = tuple(sorted(set(dense_layers)))
        model.requires_grad_(False)
        for layer in self.dense_layers:
            self._blocks.blocks[layer].requires_grad_(True)
        self.layers = nn.ModuleDict()
        self._adapters: list[_LayerAdapter] = []
        for layer, neurons, masks in _by_layer(groups, self._blocks, self.dense_layers):
            place = device or self._blocks.down(layer).weight.device
            lines = self._blocks.lines(layer, neurons.to(place))
            adapter = _LayerAdapter(lines, masks, lambda: self._learns, place)
            self.layers[str(layer)] = adapter
            self._adapters.append(adapter)
            self._hooks += adapter.install()
        # Before the whole model, not before a block: a block of a sharded model computes with a
        # copy of its weights, in which a changed delta would be lost.
        self._hooks.append(model.register_forward_pre_hook(lambda _model, _inputs: self.write()))

    def samples(self, kinds: torch.Tensor) -> None:
        """Say which samples of the next batch [B] hold evidence (1, others 0); 2: teaches all."""
        self._learns = kinds

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

    def write(self) -> None:
        """Put changed deltas into the weights."""
        if self._off:
            return
        for adapter in self._adapters:
            adapter.write()

    def keep_base(self) -> None:
        """Keep a frozen copy of the dense layers' blocks."""
        self._copies = Copies(parameter for _, parameter in self.dense())

    @contextmanager
    def base(self) -> Iterator[None]:
        """The weights are those of before, for a while."""
        assert self._copies is not None
        self._off = True
        for adapter in self._adapters:
            adapter.undo()
        try:
            with self._copies.in_place():
                yield
        finally:
            self._off = False
            self.write()

    def merge(self) -> None:
        """Leave the deltas in the model's weights, and take the adapters out."""
        self.write()
        self._take_out()

    def remove(self) -> None:
        """Take the adapters out and put the weights of their neurons back as they were."""
        for adapter in self._adapters:
            adapter.undo()
        self._take_out()

    def _take_out(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


class _LayerAdapter(nn.Module):
    """Deltas of the neurons of one layer. masks [3, n]: learns from noise, from evidence, from what
    is held alone.

    The deltas stand merged in the weights while they are trained, so that a forward pass costs what
    it does without them; each is written anew when its parameter has changed.
    """

    def __init__(
        self,
        lines: Sequence[Lines],
        masks: np.ndarray,
        learns: Callable[[], torch.Tensor | None],
        device: torch.device,
    ) -> None:
        super().__init__()
        self._masks = torch.tensor(masks, device=device)
        self._all_learn = bool(masks.all())
        self._learns = learns
        self._deltas: list[Delta] = []
        for own in lines:
            shape = list(own.linear.weight.shape)
            shape[own.dim] = len(own.index)
            value = nn.Parameter(torch.zeros(shape, device=device))
            self.register_parameter(own.name, value)
            self._deltas.append(Delta(own.linear, own.index, value, own.dim))

    def install(self) -> Iterator[Any]:
        """Hooks that collect the deltas' gradients; yields their handles."""
        for delta in self._deltas:
            each = len(delta.index) // self._masks.shape[1]
            yield delta.linear.register_forward_hook(delta.tap(partial(self._mask, each)))

    def write(self) -> None:
        """Put changed deltas into the weights."""
        for delta in self._deltas:
            delta.write()

    def undo(self) -> None:
        """Put the weights back as they were."""
        for delta in self._deltas:
            delta.undo()

    def _mask(self, each: int) -> torch.Tensor | None:
        """[B, 1, n * each]: 1 where a sample teaches a neuron; None where every sample teaches all.

        each: lines of a neuron.
        """
        learns = self._learns()
        if learns is None or self._all_learn:
            return None
        masks = self._masks.repeat_interleave(each, 1) if each > 1 else self._masks
        return masks[learns.to(masks.device).long()][:, None, :]


class Delta:
    """A trained delta of rows (dim 0) or columns (dim 1) of a linear layer's frozen weight.

    Of a weight that is sharded over processes each writes into the rows that it holds.
    """

    def __init__(
        self, linear: nn.Linear, index: torch.Tensor, value: nn.Parameter, dim: int
    ) -> None:
        self.linear, self.index, self.value, self.dim = linear, index, value, dim
        self._before: torch.Tensor | None = None
        self._written = value._version

    def tap(
        self, mask: Callable[[], torch.Tensor | None] = lambda: None
    ) -> Callable[..., torch.Tensor]:
        """A forward hook of the linear layer, through which the delta gets its gradient.

        mask: gives [B, 1, n], 1 where a sample teaches a row or column; None where all do.
        """

        def hook(_module: Any, inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
            if not torch.is_grad_enabled():
                return out
            tapped: torch.Tensor = _Tap.apply(  # type: ignore[no-untyped-call]
                out, inputs[0].detach(), self.value, self.index, mask(), self.dim
            )
            return tapped

        return hook

    @torch.no_grad()
    def write(self) -> None:
        """Add the delta, in float32 and rounding once, if it has changed since."""
        if self.value._version == self._written:
            return
        weight = local_shard(self.linear.weight.data)
        index, value = self._own(weight.shape[0])
        if self._before is None:
            self._before = weight.index_select(self.dim, index)
        now = (self._before.float() + value).to(weight.dtype)
        weight.index_copy_(self.dim, index, now)
        self._written = self.value._version

    @torch.no_grad()
    def undo(self) -> None:
        """Put the weight back as it was, until the delta is written again."""
        if self._before is not None:
            weight = local_shard(self.linear.weight.data)
            weight.index_copy_(self.dim, self._own(weight.shape[0])[0], self._before)
            self._written = -1

    def _own(self, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Where in this process's rows of the weight which part of the delta belongs."""
        if rows == self.linear.weight.shape[0]:
            return self.index, self.value
        first = first_row(self.linear.weight)
        if self.dim == 1:
            return self.index, self.value[first : first + rows]
        own = (self.index >= first) & (self.index < first + rows)
        return self.index[own] - first, self.value[own]


class _Tap(torch.autograd.Function):
    """Passes a linear layer's output on; its gradient teaches the delta from the masked samples.

    The mask [B, 1, n] lies over the neurons: the output's side of a row delta (dim 0), the input's
    side of a column delta (dim 1). What flows on is that of the plain layer.
    """

    @staticmethod
    def forward(
        ctx: Any,
        out: torch.Tensor,
        x: torch.Tensor,
        delta: torch.Tensor,
        index: torch.Tensor,
        mask: torch.Tensor | None,
        dim: int,
    ) -> torch.Tensor:
        # Of a column delta only the neurons' own values are needed.
        seen = x.index_select(-1, index) if dim == 1 else x
        ctx.save_for_backward(seen, index, mask)
        ctx.dim = dim
        ctx.type = delta.dtype
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        seen, index, mask = ctx.saved_tensors
        given = gradient if ctx.dim == 1 else gradient.index_select(-1, index)
        # Under mixed precision the gradient comes in the output's type, which may be the lower.
        seen = seen.to(given.dtype)
        if mask is not None and ctx.dim == 1:
            seen = seen * mask.to(seen.dtype)
        elif mask is not None:
            given = given * mask.to(given.dtype)
        found = given.flatten(0, -2).T @ seen.flatten(0, -2)
        return gradient, None, found.to(ctx.type), None, None, None


def _by_layer(
    groups: Mapping[str, Group], blocks: Site, dense: Sequence[int]
) -> Iterator[tuple[int, torch.Tensor, np.ndarray]]:
    """Layer, its neurons [n] and their masks [3, n], for every layer that has deltas."""
    for layer in range(blocks.depth):
        if layer in dense:
            continue
        neurons: list[int] = []
        masks: list[tuple[bool, bool, bool]] = []
        for group in groups.values():
            chosen = group.neurons[group.neurons[:, 0] == layer, 1].tolist()
            neurons += chosen
            masks += [(group.from_noise, group.from_evidence, True)] * len(chosen)
        if len(set(neurons)) != len(neurons):
            raise ValueError(f"layer {layer}: a neuron stands in two groups")
        if neurons:
            yield layer, torch.tensor(neurons), np.array(masks, dtype=np.float32).T
