"""A neuron adapter as a plain LoRA, which peft and stock vLLM load beside the base model.

The rows that changed are a one-hot matrix times their deltas, the columns their deltas times a
one-hot matrix, so nothing is approximated: the rank of a layer is the number of its neurons.

Source: docs/method.md, Phase 2; LoRA, Hu et al. 2021.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from neurorit.core.artifact import Manifest, writing
from neurorit.core.errors import BadInput
from neurorit.mining.settings import SITES
from neurorit.model.feed_forward import Site
from neurorit.model.prompts import PromptTemplate
from neurorit.tuning.adapter_file import read_adapter
from neurorit.tuning.settings import MAX_LORA_RANK

_Factors = dict[str, tuple[torch.Tensor, torch.Tensor]]


def save_lora(
    model: Any,
    directory: Path,
    base: str,
    out: Path,
    manifest: Manifest,
    *,
    max_rank: int = MAX_LORA_RANK,
    template: PromptTemplate | None = None,
    overwrite: bool = False,
) -> int:
    """Write what `tune --adapter` wrote at `directory` as a LoRA folder; returns its largest rank.

    model: the base model, as it was before; base: what the folder is to call it; the manifest's
    inputs name its weights as `model`. template: the wording that it was tuned with. Factors are
    float32, and the scale is 1 in every layer.
    Raises BadInput for an adapter of another base, for one with dense layers or without neurons,
    and for a layer whose rank would be above `max_rank`.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    factors = _factors(model, directory, manifest.inputs["model"], max_rank)
    ranks = {name: len(a) for name, (a, _) in factors.items()}
    most = max(ranks.values())
    # vLLM reads one rank and one alpha; peft those of every module that has others.
    others = {name: rank for name, rank in ranks.items() if rank != most}
    config = LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        r=most,
        lora_alpha=most,
        rank_pattern=others,
        alpha_pattern=others,
        target_modules=sorted(ranks),
        inference_mode=True,
    )
    tensors = {}
    for name, pair in factors.items():
        for letter, factor in zip("AB", pair, strict=True):
            tensors[f"base_model.model.{name}.lora_{letter}.weight"] = factor.cpu().contiguous()
    with writing(out, manifest, overwrite=overwrite) as folder:
        config.save_pretrained(folder)
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        if template is not None:
            template.save(folder)
    return most


@torch.no_grad()
def _factors(model: Any, directory: Path, base_digest: str, max_rank: int) -> _Factors:
    """Module name -> A [rank, inputs] and B [outputs, rank]."""
    site, tensors = read_adapter(directory, base_digest)
    dense = sorted({int(name.split(".")[1]) for name in tensors if name.startswith("dense.")})
    if dense:
        raise BadInput(
            f"‹as_lora›: {directory} holds layers that were trained whole "
            f"({', '.join(map(str, dense))}), which are no small rank; merge it without ‹as_lora›, "
            "or tune with the method neurons"
        )
    names = {id(weight): path.removesuffix(".weight") for path, weight in model.named_parameters()}
    factors: _Factors = {}
    blocks: Site = SITES.get(site)(model)
    for layer in range(blocks.depth):
        chosen = tensors.get(f"neurons.{layer}.index")
        if chosen is None:
            continue
        lines = blocks.lines(layer, chosen)
        ranks: Counter[str] = Counter()
        for own in lines:  # gate and up may stand in one matrix
            ranks[names[id(own.linear.weight)]] += len(own.index)
        rank = max(ranks.values())
        if rank > max_rank:
            raise BadInput(
                f"‹as_lora›: layer {layer} has {len(chosen)} tuned neurons, which is rank {rank}, "
                f"above ‹max_rank={max_rank}›; tune fewer neurons of it, or raise the limit where "
                f"it is not for vLLM (which serves up to {MAX_LORA_RANK})"
            )
        for own in lines:
            weight, index = own.linear.weight, own.index
            before = weight.index_select(own.dim, index.to(weight.device)).float()
            delta = tensors[f"neurons.{layer}.{own.name}"].to(weight.device).float() - before
            places = functional.one_hot(index, weight.shape[own.dim]).float().to(weight.device)
            a, b = (delta, places.T) if own.dim == 0 else (places, delta)
            name = names[id(weight)]
            if name in factors:
                a, b = torch.cat([factors[name][0], a]), torch.cat([factors[name][1], b], 1)
            factors[name] = a, b
    if not factors:
        raise BadInput(f"‹as_lora›: {directory} holds no neurons, so there is nothing to write")
    return factors
