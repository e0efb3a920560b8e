"""The adapter alone: what tuning changed, as a small artifact beside the base checkpoint.

It holds the tuned neurons' rows and columns and the dense layers' blocks, as they stand after
merging, so that applying it to the base model gives the tuned checkpoint bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neurorit.core.artifact import Manifest, read_manifest, writing
from neurorit.core.errors import BadInput
from neurorit.mining.atlas import FEED_FORWARD
from neurorit.mining.settings import SITES
from neurorit.model.feed_forward import Site
from neurorit.model.prompts import TEMPLATE_FILE, PromptTemplate

TENSORS = "adapter.safetensors"


def save_adapter(
    model: Any,
    neurons: np.ndarray,
    dense_layers: Sequence[int],
    out: Path,
    manifest: Manifest,
    *,
    site: str = FEED_FORWARD,
    template: PromptTemplate | None = None,
    overwrite: bool = False,
) -> None:
    """Write the neurons [n, 2] and dense layers of a merged model.

    manifest: its inputs must name the base as `model` (see models.weights_digest). site: where the
    neurons are. template: the wording that was tuned with.
    """
    from safetensors.torch import save_file

    blocks: Site = SITES.get(site)(model)
    manifest = replace(manifest, made={**manifest.made, "site": site})
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
        for own in blocks.lines(layer, chosen):
            weight = own.linear.weight.detach()
            lines = weight.index_select(own.dim, own.index.to(weight.device))
            tensors[f"neurons.{layer}.{own.name}"] = lines.cpu().contiguous()
    with writing(out, manifest, overwrite=overwrite) as directory:
        save_file(tensors, directory / TENSORS)
        if template is not None:
            template.save(directory)


def read_adapter(directory: Path, base_digest: str) -> tuple[str, dict[str, torch.Tensor]]:
    """An adapter's site and tensors: `dense.LAYER.NAME`, `neurons.LAYER.index|NAME`.

    NAME is that of the site's `lines`. Raises BadInput for an adapter of another base.
    """
    from safetensors.torch import load_file

    manifest = read_manifest(directory, "adapter")
    if manifest.inputs.get("model") != base_digest:
        raise BadInput(f"‹adapter={directory}› was made from another base model's weights")
    return manifest.made.get("site", FEED_FORWARD), load_file(Path(directory) / TENSORS)


def adapter_template(directory: Path, base: Path) -> PromptTemplate:
    """The wording that an adapter was tuned with, which may be its base's."""
    if (Path(directory) / TEMPLATE_FILE).is_file():
        return PromptTemplate.of_checkpoint(directory)
    wording = read_manifest(directory, "adapter").settings.get("wording", "as-it-is")
    return PromptTemplate.of_checkpoint(base).worded(wording)


@torch.no_grad()
def apply_adapter(model: Any, directory: Path, base_digest: str) -> None:
    """Put an adapter's weights into the base model, in place.

    base_digest: of the model's weights. Raises BadInput for an adapter of another base.
    """
    site, tensors = read_adapter(directory, base_digest)
    blocks: Site = SITES.get(site)(model)
    for layer in range(blocks.depth):
        for name, parameter in blocks.blocks[layer].named_parameters():
            dense = tensors.get(f"dense.{layer}.{name}")
            if dense is not None:
                parameter.copy_(dense)
        chosen = tensors.get(f"neurons.{layer}.index")
        if chosen is None:
            continue
        for own in blocks.lines(layer, chosen):
            weight = own.linear.weight
            lines = tensors[f"neurons.{layer}.{own.name}"].to(weight.device, weight.dtype)
            weight.data.index_copy_(own.dim, own.index.to(weight.device), lines)
