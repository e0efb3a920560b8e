"""The adapter alone: what tuning changed, as a small artifact beside the base checkpoint.

It holds the tuned neurons' rows and columns and the dense layers' blocks, as they stand after
merging, so that applying it to the base model gives the tuned checkpoint bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neurorit.core.artifact import Manifest, read_manifest, writing
from neurorit.core.errors import BadInput
from neurorit.model.feed_forward import FeedForward, feed_forward

TENSORS = "adapter.safetensors"


def save_adapter(
    model: Any,
    neurons: np.ndarray,
    dense_layers: Sequence[int],
    out: Path,
    manifest: Manifest,
    *,
    overwrite: bool = False,
) -> None:
    """Write the neurons [n, 2] and dense layers of a merged model.

    manifest: its inputs must name the base as `model` (see models.weights_digest).
    """
    from safetensors.torch import save_file

    blocks = feed_forward(model)
    tensors = {}
    for layer in range(blocks.depth):
        if layer in dense_layers:
            for name, parameter in blocks.blocks[layer].named_parameters():
                tensors[f"dense.{layer}.{name}"] = parameter.detach().cpu().contiguous()
            continue
        chosen = torch.from_numpy(neurons[neurons[:, 0] == layer, 1].astype(np.int64))
        if not len(chosen):
            continue
        tensors[f"neurons.{layer}.index"] = chosen
        for name, weight, dim, index in changed_lines(blocks, layer, chosen):
            lines = weight.detach().index_select(dim, index.to(weight.device))
            tensors[f"neurons.{layer}.{name}"] = lines.cpu().contiguous()
    with writing(out, manifest, overwrite=overwrite) as directory:
        save_file(tensors, directory / TENSORS)


def read_adapter(directory: Path, base_digest: str) -> dict[str, torch.Tensor]:
    """An adapter's tensors: `dense.LAYER.NAME`, `neurons.LAYER.index|up|gate|down`.

    Raises BadInput for an adapter of another base.
    """
    from safetensors.torch import load_file

    manifest = read_manifest(directory, "adapter")
    if manifest.inputs.get("model") != base_digest:
        raise BadInput(f"‹adapter={directory}› was made from another base model's weights")
    return load_file(Path(directory) / TENSORS)


@torch.no_grad()
def apply_adapter(model: Any, directory: Path, base_digest: str) -> None:
    """Put an adapter's weights into the base model, in place.

    base_digest: of the model's weights. Raises BadInput for an adapter of another base.
    """
    tensors = read_adapter(directory, base_digest)
    blocks = feed_forward(model)
    for layer in range(blocks.depth):
        for name, parameter in blocks.blocks[layer].named_parameters():
            dense = tensors.get(f"dense.{layer}.{name}")
            if dense is not None:
                parameter.copy_(dense)
        chosen = tensors.get(f"neurons.{layer}.index")
        if chosen is None:
            continue
        for name, weight, dim, index in changed_lines(blocks, layer, chosen):
            lines = tensors[f"neurons.{layer}.{name}"].to(weight.device, weight.dtype)
            weight.data.index_copy_(dim, index.to(weight.device), lines)


def changed_lines(
    blocks: FeedForward, layer: int, chosen: torch.Tensor
) -> list[tuple[str, torch.Tensor, int, torch.Tensor]]:
    """A layer's weights that hold the chosen neurons: name, weight, dimension, places in it."""
    up, gate = blocks.up(layer).weight, blocks.gate(layer)
    down = ("down", blocks.down(layer).weight, 1, chosen)
    if blocks.fused:  # the gate's rows stand first, the up-projection's after them
        width = blocks.width
        return [("gate", up, 0, chosen), ("up", up, 0, chosen + width), down]
    parts = [("up", up, 0, chosen), down]
    if gate is not None:
        parts.append(("gate", gate.weight, 0, chosen))
    return parts
