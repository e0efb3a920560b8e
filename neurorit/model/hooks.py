"""Looking at neurons, and switching them off, while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from neurorit.model.feed_forward import Site


@contextmanager
def recording(blocks: Site, last: int | None = None) -> Iterator[dict[int, torch.Tensor]]:
    """The neurons' values of the block's last forward pass: layer -> [B, T, F * unit], detached.

    last: keep that many positions alone, at the end of the prompts; those of several passes stand
    one behind the other.
    """
    seen: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Callable[..., None]:
        def hook(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            values = inputs[0].detach()
            if last is not None:
                # A copy, since a view would keep the values at all positions.
                values = values[:, -last:].clone()
                values = torch.cat([seen[layer], values]) if layer in seen else values
            seen[layer] = values

        return hook

    hooks = [
        blocks.down(layer).register_forward_pre_hook(keep(layer)) for layer in range(blocks.depth)
    ]
    try:
        yield seen
    finally:
        for handle in hooks:
            handle.remove()


@contextmanager
def silencing(blocks: Site, neurons: np.ndarray) -> Iterator[None]:
    """Hold neurons [n, 2], given as (layer, neuron), at zero at every position in the block."""
    hooks = []

    def still(index: torch.Tensor) -> Callable[..., tuple[torch.Tensor]]:
        def hook(_module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            return (inputs[0].index_fill(-1, index, 0.0),)

        return hook

    for layer in sorted({int(one) for one in neurons[:, 0]}):
        down = blocks.down(layer)
        index = _coordinates(blocks, neurons, layer).to(down.weight.device)
        hooks.append(down.register_forward_pre_hook(still(index)))
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


@contextmanager
def holding(
    blocks: Site, values: torch.Tensor, neurons: np.ndarray | None = None
) -> Iterator[None]:
    """Hold the neurons of the last N positions at values [B, L, N, F * unit] in the block.

    neurons [n, 2]: (layer, neuron) of those that are held; None holds all of them.
    """
    hooks = []
    span = values.shape[2]

    def put(layer: int, index: torch.Tensor | None) -> Callable[..., tuple[torch.Tensor]]:
        def hook(_module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            hidden = inputs[0].clone()
            held = values[:, layer].to(hidden.dtype)
            if index is None:
                hidden[:, -span:] = held
            else:
                hidden[:, -span:, index] = held[:, :, index]
            return (hidden,)

        return hook

    for layer in range(blocks.depth):
        down = blocks.down(layer)
        index = None
        if neurons is not None:
            index = _coordinates(blocks, neurons, layer).to(down.weight.device)
            if not len(index):
                continue
        hooks.append(down.register_forward_pre_hook(put(layer, index)))
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def _coordinates(blocks: Site, neurons: np.ndarray, layer: int) -> torch.Tensor:
    """Where the neurons of a layer stand in what enters its projection."""
    chosen = neurons[neurons[:, 0] == layer, 1].astype(np.int64)
    places = chosen[:, None] * blocks.unit + np.arange(blocks.unit)
    return torch.from_numpy(np.ascontiguousarray(places.ravel()))
