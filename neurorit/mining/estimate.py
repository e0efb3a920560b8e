"""What mining will need on several devices, before anything runs: memory of each, and time.

Nothing of the model is loaded. One and two of its layers are laid out in torch's fake tensors, and
what a pass of rows keeps in each is counted there; time is an estimate from this machine's matrix
speed. Devices share the contexts, or the model's layers where `pipeline` says so.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import DynamicCache

from neurorit.data.example_files import ExampleSource, examples_name, load_examples
from neurorit.mining.attributor import MOST, SLACK, bare_prompt
from neurorit.mining.collect import ASKED
from neurorit.mining.contexts import contexts
from neurorit.mining.settings import ATTRIBUTIONS, SITES, MiningSettings
from neurorit.model.checkpoint import checkpoint_dir
from neurorit.model.distributed.pipeline import shares_of, whole_size
from neurorit.model.feed_forward import check_tunable, decoder_layers
from neurorit.model.float32 import FLOAT32, TF32, float32_activations
from neurorit.model.load import dtype_named, layer_count, load_tokenizer, without_weights
from neurorit.model.memory import kept_for_backward
from neurorit.model.precision import EFFICIENCY, matrix_speed
from neurorit.model.prompts import PromptTemplate, render_prompt

_GIB = 2**30
_DEVICES = 1, 2, 4, 8


@dataclass(frozen=True)
class Prompts:
    """Tokens of what is asked: of the mean and the longest prompt, and of the mean bare one.

    count: contexts that are attributed; asked: that are answered before, at most.
    """

    mean: float
    longest: int
    bare: float
    count: int
    asked: int


def plan(
    model_dir: Path, examples: ExampleSource, settings: MiningSettings, *, seed: int = 0
) -> Mapping[str, Any]:
    """What mining these examples needs; see `plan_of`."""
    model_dir = checkpoint_dir(model_dir, weights=False)
    check_tunable(model_dir)
    tokenizer, template = load_tokenizer(model_dir), PromptTemplate.of_checkpoint(model_dir)
    chosen = list(
        contexts(
            load_examples(examples),
            settings.samples,
            settings.noise_passages,
            seed,
            examples_name(examples),
            settings.layout,
            settings.task,
        )
    )
    shown = [len(render_prompt(tokenizer, template, c.question, c.passages)) for c in chosen]
    bare = [len(bare_prompt(tokenizer, template, c.question, settings.layout)) for c in chosen]
    asked = ASKED * len(chosen) if settings.contexts == "followed" else 0
    prompts = Prompts(mean(shown), max(shown), mean(bare), len(chosen), asked)
    return plan_of(model_dir, settings, prompts)


def plan_of(model_dir: Path, settings: MiningSettings, prompts: Prompts) -> Mapping[str, Any]:
    """Bytes that a device needs, and hours, where 1, 2, 4 and 8 devices share the work.

    Each line of devices that parts the layers does one context after another, so that lines save
    time and parts of a line memory; what parts do at the same time is not counted. `devices` says
    it as data.
    """
    dtype = dtype_named(model_dir, settings.dtype)
    depth = layer_count(model_dir)
    with FakeTensorMode(allow_non_fake_inputs=True):
        one, two = (without_weights(model_dir, dtype, range(n)) for n in (1, 2))
        layer = _of_a_layer(one, two, depth, prompts.longest, settings)
        needs = {
            parts: max(
                (
                    _bytes(one, layer, _Share(layers, depth, parts), settings, prompts)
                    for layers in shares_of(one, depth, parts)
                ),
                key=lambda need: sum(need.values()),
            )
            for parts in _DEVICES
            if parts <= depth
        }
        weights = whole_size(one, depth)
    work = _work(weights, depth, settings, prompts)
    computed = "float32" if settings.activations != "as-weights" else dtype
    hours = work / (matrix_speed(computed) * EFFICIENCY) / 3600
    rows = [
        {
            "devices": devices,
            "pipeline": parts,
            "gib_each": sum(need.values()) / _GIB,
            "hours": hours * parts / devices,
        }
        for devices in _DEVICES
        for parts, need in needs.items()
        if parts <= devices
    ]
    own = needs.get(settings.pipeline, needs[1])
    return {
        "parameters": weights,
        "contexts": prompts.count,
        "tokens_of_a_prompt": round(prompts.mean),
        "operations": work,
        **{f"{name}_gib": value / _GIB for name, value in own.items()},
        **{
            f"{row['devices']} devices, pipeline {row['pipeline']}": (
                f"{row['gib_each']:.1f} GiB each, {row['hours']:.2f} hours"
            )
            for row in rows
        },
        "devices": rows,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }


@dataclass(frozen=True)
class _Share:
    """The layers of a part, of `depth`, in a line of so many parts."""

    layers: range
    depth: int
    parts: int


@dataclass(frozen=True)
class _Layer:
    """Bytes of one layer: that a row keeps for going back, of the keys and values of the longest
    prompt, and in work while it goes through."""

    row: float
    cache: float
    working: float


def _bytes(
    one: Any, layer: _Layer, share: _Share, settings: MiningSettings, prompts: Prompts
) -> dict[str, float]:
    """What a process with these layers holds at its peak, by what it is."""
    own = len(share.layers)
    begins, ends = share.layers.start == 0, share.layers.stop == share.depth
    embedding, output = one.get_input_embeddings().weight, one.get_output_embeddings().weight
    parameters = list(decoder_layers(one)[0].parameters())
    weights = own * sum(p.nbytes for p in parameters)
    weights += embedding.nbytes if begins else 0
    weights += output.nbytes if ends and not (begins and output is embedding) else 0
    widest = max(p.numel() for p in [*parameters, *([output] if ends else [])])
    raised = settings.activations in (FLOAT32, TF32) and one.dtype != torch.float32
    path = settings.steps + 1
    along = ATTRIBUTIONS.get(settings.method).along_path
    context = share.depth * path if along else 1  # rows of one context
    site = SITES.get(settings.site)(one)

    def contexts_in(rows: int) -> int:
        return max(1, min(MOST, rows // context))

    def kept(rows: int) -> float:
        each = min(rows, context)
        passes = _passes(share, each, path) if along else own
        logits = 2 * 4 * output.shape[0] * each if ends else 0
        return contexts_in(rows) * (layer.row * passes + logits)

    rows = settings.rows
    if settings.memory:
        # As `rows_within` has it, with what is kept counted in place of measured.
        most = range(1, MOST * context + 1)
        rows = max(2, bisect_right(most, settings.memory / SLACK, key=kept))
    batch = contexts_in(rows)
    return {
        "weights": weights * (1 + _copied(settings, one.dtype)),
        "raised_weight": 4 * widest if raised else 0,
        "keys_and_values": batch * own * layer.cache * (1 + prompts.bare / prompts.longest),
        # With and without the context, their difference, and what is summed along the path.
        "values": 4 * batch * own * site.width * site.unit * _itemsize(one, settings),
        # Prompts and rows are not in work at the same time.
        "activations": max(SLACK * kept(rows), batch * layer.working),
    }


def _copied(settings: MiningSettings, dtype: torch.dtype) -> float:
    """The size of the copy that reads prompts for the rows, as a share of the weights."""
    if settings.prefill == "as-activations" or settings.asking != "bfloat16":
        return 0.0
    return 0.0 if dtype == torch.bfloat16 else torch.bfloat16.itemsize / dtype.itemsize


def _passes(share: _Share, rows: int, path: int) -> int:
    """Layers of this part that rows under way go through, together: the most at any time."""
    # Rows stand in the order of their layers: those that came in before this part do all of it.
    first = max(0, share.layers.start * path - rows)
    own = np.arange(first, min(first + rows, share.depth * path)) // path
    through = share.layers.stop - np.maximum(own, share.layers.start)
    return int(np.maximum(through, 0).sum())


def _of_a_layer(one: Any, two: Any, depth: int, length: int, settings: MiningSettings) -> _Layer:
    """What the second layer of a model of two adds to one of one; the model itself has `depth`."""
    context = depth * (settings.steps + 1)
    rows = max(2, context if settings.memory else min(settings.rows, context))
    kept = [_kept(model, length, rows, settings) for model in (one, two)]
    config, each = one.config, _itemsize(one, settings)
    # The block's three widest tensors, and some of the hidden states' width.
    wide = 3 * config.intermediate_size + 6 * config.hidden_size
    heads, size = _heads(config)
    cache = 2 * length * heads * size * each
    return _Layer((kept[1] - kept[0]) / rows, cache, length * wide * each)


def _itemsize(model: Any, settings: MiningSettings) -> int:
    """Bytes of a number that is computed."""
    return int(model.dtype.itemsize) if settings.activations == "as-weights" else 4


def _heads(config: Any) -> tuple[int, int]:
    """How many keys a token has, and their size."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(heads), int(size)


def _kept(model: Any, length: int, rows: int, settings: MiningSettings) -> int:
    """Bytes that rows behind a prompt keep for going back through a model of few layers."""
    model.eval().requires_grad_(False)
    cache = DynamicCache()
    kind = model.dtype if settings.activations == "as-weights" else torch.float32
    heads, size = _heads(model.config)
    for layer in range(model.config.num_hidden_layers):
        seen = torch.zeros(1, heads, length, size, dtype=kind)
        cache.update(seen, seen.clone(), layer)
    handle = model.get_input_embeddings().register_forward_hook(
        lambda _module, _inputs, out: out.detach().requires_grad_()
    )
    raised = settings.activations != "as-weights"
    try:
        with (
            kept_for_backward(model) as kept,
            float32_activations(model) if raised else nullcontext(),
        ):
            model(
                input_ids=torch.zeros((1, rows), dtype=torch.long),
                position_ids=torch.arange(length, length + rows)[None],
                attention_mask=torch.zeros(1, 1, rows, length + rows, dtype=kind),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            return kept()
    finally:
        handle.remove()


def _work(weights: int, depth: int, settings: MiningSettings, prompts: Prompts) -> float:
    """Floating-point operations: two for each weight and token, as often back as forth."""
    asking = prompts.asked * (prompts.mean + settings.answer_tokens)
    rows = depth * (settings.steps + 1) if ATTRIBUTIONS.get(settings.method).along_path else 1
    # A row goes through half of the layers on the mean, forth and back.
    attributing = prompts.count * (prompts.mean + prompts.bare + rows)
    return 2.0 * weights * (asking + attributing)
