"""What tuning will need, before anything runs: trained parameters, memory, steps and time.

The model is laid out without its weights (of torch's fake tensors) and one forward pass is traced
so, under the precision of the run: memory is counted from real shapes, with autocast's copies,
logits and what checkpoints compute again. Time is an estimate from the machine's matrix speed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.nn import functional

from neurorit.core.errors import BadInput
from neurorit.mining.atlas import FEED_FORWARD, NeuronAtlas
from neurorit.mining.settings import SITES
from neurorit.model.checkpoint import checkpoint_dir
from neurorit.model.feed_forward import Site, check_tunable, decoder_layers
from neurorit.model.load import dtype_named, without_weights
from neurorit.model.memory import kept_for_backward
from neurorit.model.precision import EFFICIENCY, autocasts, matrix_speed
from neurorit.tuning.neuron_adapter import Group, NeuronAdapters
from neurorit.tuning.rivals.full import FullTuning
from neurorit.tuning.rivals.reshaped_masks import ReshapedMasks
from neurorit.tuning.rivals.s2ft import S2ft
from neurorit.tuning.settings import METHODS, REPLICATION, TUNINGS, TuneSettings
from neurorit.tuning.stages import lora, s2ft_parameters

_RESPONSE = 32  # tokens of a response, whose logits are computed


def plan(
    model_dir: Path,
    settings: TuneSettings,
    *,
    atlas: NeuronAtlas | None = None,
    share: float = 0.05,
    length: int | None = None,
) -> Mapping[str, Any]:
    """Parameters, bytes, steps and seconds of a tuning run.

    With `shard`, also what each of 2, 4 and 8 processes holds: its part, two layers that are whole
    while they compute, deltas and activations. atlas: what was mined; without one, `share` of all
    neurons for each side, the most that mining can choose, spread evenly. length: tokens of the
    longest sample (None: max_length).
    """
    model_dir = checkpoint_dir(model_dir, weights=False)
    check_tunable(model_dir)
    settings = replace(settings, dtype=dtype_named(model_dir, settings.dtype))
    # peft moves its matrices, which fake tensors do not take: there autocast is not traced.
    lora = settings.method in METHODS and _is_lora(settings.method)
    with torch.device("meta") if lora else FakeTensorMode(allow_non_fake_inputs=True):
        return _plan(model_dir, settings, atlas, share, length or settings.max_length)


def _plan(
    model_dir: Path, settings: TuneSettings, atlas: NeuronAtlas | None, share: float, length: int
) -> Mapping[str, Any]:
    model = without_weights(model_dir, settings.dtype)
    size = sum(parameter.numel() for parameter in model.parameters())
    stored = sum(parameter.nbytes for parameter in model.parameters())
    trainable = _install(model, settings, atlas, share)
    trained = _trained(trainable)
    count = sum(parameter.numel() for parameter in trained)
    lower = sum(parameter.numel() for parameter in trained if parameter.dtype != torch.float32)
    tokens = settings.batch_size * length
    steps = settings.steps + (0 if settings.method == "stage2-only" else settings.stage1_steps)
    forward = 2.0 * size * tokens
    # Back through every layer, and for gradients; checkpointing computes all of it once more.
    passes = 3 if settings.gradient_checkpointing else 2
    with unset_fake_temporarily():
        speed = matrix_speed(settings.dtype)
    work = (passes * forward + 2.0 * count * tokens) * settings.accumulation
    copied = _copied(trainable) if settings.holds else 0
    for parameter in trained:  # as they learn; autocast then makes copies of them
        parameter.data = parameter.data.float()
    activations, layer = _activations(model, trainable, settings, length)
    gigabyte = 2**30
    # Gradients come while activations go: the most is there at the first layer or at the last, but
    # where batches are accumulated gradients of earlier ones are there beside all activations.
    gradients = 4 * count
    moving = gradients + activations
    if settings.accumulation == 1:
        moving = max(activations, gradients + layer)
    total = stored + 2 * lower + 8 * count + copied + moving
    each = {}
    if settings.shard:
        deltas = sum(p.numel() for _, p in trainable.deltas()) if _has_deltas(trainable) else 0
        sharded = stored + 2 * lower + 12 * (count - deltas)
        whole = 16 * deltas + activations + 2 * _largest_layer(model)
        each = {f"each_of_{n}_gib": (sharded / n + whole) / gigabyte for n in (2, 4, 8)}
    return {
        "method": settings.method,
        "parameters": size,
        "trained_parameters": count,
        "trained_share": count / size,
        "weights_gib": stored / gigabyte,
        "float32_copies_gib": 2 * lower / gigabyte,  # float32 in place of two-byte weights
        "gradients_gib": 4 * count / gigabyte,
        "optimizer_gib": 8 * count / gigabyte,
        "base_copy_gib": copied / gigabyte,  # of what is held, where weights themselves learn
        "activations_gib": activations / gigabyte,
        "total_gib": total / gigabyte,
        **each,
        "steps": steps,
        "tokens_a_step": tokens * settings.accumulation,
        "seconds_a_step": work / (speed * EFFICIENCY),
        "hours": steps * work / (speed * EFFICIENCY) / 3600,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }


def _install(model: Any, settings: TuneSettings, atlas: NeuronAtlas | None, share: float) -> Any:
    if settings.method == "sft":
        return FullTuning(model)
    if settings.method not in METHODS:
        raise BadInput(f"--plan: {settings.method} is no method of ours; nothing is known of it")
    method = TUNINGS.get(settings.method)
    if settings.method == "s2ft":
        return S2ft(model, s2ft_parameters(model, settings), 0)
    if _is_lora(settings.method):
        return lora(model, settings)  # SHiRA's parameters are as many
    site = FEED_FORWARD if atlas is None else atlas.site
    blocks: Site = SITES.get(site)(model)
    dense: list[int] = []
    if method.dense:
        count = min(settings.dense_layers, blocks.depth)
        dense = list(range(count)) if atlas is None else atlas.densest(count)
    if atlas is not None:
        atlas.check_shape(blocks.depth, blocks.width, site=site)
        sets = {"rel": atlas.rel, "irrel": atlas.irrel, "shared": atlas.shared}
    else:
        each = max(1, round(share * blocks.width))
        pairs = np.array([(layer, j) for layer in range(blocks.depth) for j in range(2 * each)])
        sets = {"rel": pairs[pairs[:, 1] < each], "irrel": pairs[pairs[:, 1] >= each]}
    if settings.method == "stage1-only":
        sets = {"irrel": sets["irrel"]}
    elif settings.method == REPLICATION:
        every = np.concatenate(list(sets.values()))
        last = range(blocks.depth - len(dense), blocks.depth)
        return ReshapedMasks(model, every, last, gate=False)
    elif not method.neurons:
        sets = {}
    groups = {name: Group(neurons) for name, neurons in sets.items()}
    return NeuronAdapters(model, groups, dense, site=site)


def _is_lora(method: str) -> bool:
    return method != "sft" and not TUNINGS.get(method).needs_atlas


def _has_deltas(trainable: Any) -> bool:
    return isinstance(trainable, NeuronAdapters)


def _largest_layer(model: Any) -> int:
    return max(sum(p.nbytes for p in layer.parameters()) for layer in decoder_layers(model))


def _trained(trainable: Any) -> list[torch.nn.Parameter]:
    if _has_deltas(trainable):
        return [p for _, p in trainable.deltas() + trainable.dense()]
    return [p for _, p in trainable.trained()]


def _copied(trainable: Any) -> int:
    """Bytes of the weights that learn themselves, of which a hold keeps a frozen copy."""
    if isinstance(trainable, FullTuning):
        return sum(parameter.nbytes for _, parameter in trainable.trained())
    if isinstance(trainable, (NeuronAdapters, ReshapedMasks)):
        return sum(parameter.nbytes for _, parameter in trainable.dense())
    return 0  # an adapter is left out


def _activations(
    model: Any, trainable: Any, settings: TuneSettings, length: int
) -> tuple[int, int]:
    """Bytes that a forward pass keeps, with what its backward pass adds, and those of one layer."""
    model.train()
    mixed = autocasts(model, torch.device("cpu"), settings.precision)
    kept, logits = _kept(model, trainable, settings.batch_size, length, mixed)
    layer = kept // len(decoder_layers(model))
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        inputs, _ = _kept(model, trainable, settings.batch_size, length, mixed)
        # One layer at a time is computed again.
        kept = inputs + (kept - inputs) // len(decoder_layers(model))
    return kept + logits, layer


def _kept(model: Any, trainable: Any, batch: int, length: int, mixed: bool) -> tuple[int, int]:
    """Bytes that the backward pass needs, and those of the logits' gradient, without computing."""
    ids = torch.zeros((batch, length), dtype=torch.long)
    trainable.samples(torch.ones(batch, dtype=torch.bool))
    with (
        kept_for_backward(model) as kept,
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed),
    ):
        # A mask of four dimensions is taken as it is; others would be looked into.
        mask = torch.ones(1, 1, length, length, dtype=torch.bool)
        logits = model(
            input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=_RESPONSE
        ).logits
        loss = functional.cross_entropy(logits.float().flatten(0, 1), ids[:, :_RESPONSE].flatten())
        del loss
        return kept(), 4 * logits.numel()
