"""Mining: attribution of every sample, aggregated into a neuron atlas.

Relevant contexts show the gold passages alone, irrelevant ones noise alone; each is compared with
the same question without passages. Every context's kept scores go to a journal as they are made, so
a killed run goes on where it was and ends in the same bytes; torchrun or accelerate may start
several processes, which share the contexts.

Source: docs/method.md, Phase 1, steps 3 and 4.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from neurorit.core.artifact import Manifest
from neurorit.core.errors import BadInput
from neurorit.data.example_files import (
    ExampleSource,
    examples_digest,
    examples_name,
    load_examples,
)
from neurorit.mining.atlas import NeuronAtlas, choose_sets
from neurorit.mining.collect import ASKED, Progress, Records, check_residual
from neurorit.mining.contexts import SIDES, Context, contexts
from neurorit.mining.journal import Journal
from neurorit.mining.settings import AFTERWARDS, MiningSettings
from neurorit.model.distributed import count, join
from neurorit.model.prompts import PromptTemplate
from neurorit.model.source import ModelSource


def mine(
    model: Any,
    tokenizer: Any,
    examples: ExampleSource,
    settings: MiningSettings | None = None,
    *,
    seed: int = 0,
    template: PromptTemplate | None = None,
    out: str | PathLike[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> NeuronAtlas:
    """Mine an atlas of a model from examples.

    model, tokenizer: both loaded, or a checkpoint's folder or hub name with None, which brings its
    own; a loaded model is used where it is, as it is (`dtype` and `device` of the settings are for
    folders), and given back as it came. examples: a file, what `mix` wrote, or examples in memory.
    template: the wording of prompts (None: the checkpoint's, or the default). out: where the
    artifact is written, beside a journal from which a killed run goes on; None writes nothing.

    Raises BadInput when the examples hold no sample of one side or the model follows none,
    NeuroritError when the completeness residual says that the scores do not add up.
    """
    settings = settings or MiningSettings()
    settings.check()
    join(settings.device)
    if out is not None and Path(out).exists() and not overwrite:
        raise BadInput(f"{out} exists already; name another --out or pass --overwrite")
    if out is None and count() > 1:
        raise BadInput("out: several processes share a journal beside it; name a place")
    pool = load_examples(examples)
    source = ModelSource.of(model, tokenizer, template)
    source.check_tunable()
    most = settings.samples * (ASKED if settings.contexts == "followed" else 1)
    candidates = list(contexts(pool, most, settings.noise_passages, seed, examples_name(examples)))
    inputs = {"examples": examples_digest(examples, pool), "model": source.digest}
    with tempfile.TemporaryDirectory() as nowhere, source.kept():
        place = Path(nowhere) / "atlas" if out is None else Path(out)
        journal = Journal(place, _identity(settings, seed, inputs))
        records = Records(source, candidates, settings, journal, progress)
        chosen, kept, asked = records.collect()
        shape = (int(kept[0]["shape"][0]), int(kept[0]["shape"][1]))
        atlas = replace(_aggregate(kept, chosen, shape, settings, seed), model=source.digest)
        median = float(np.median(atlas.residuals))
        check_residual(median, settings, len(kept))
        if out is not None and journal.rank == 0:
            manifest = Manifest(
                kind="atlas",
                command="neurorit-rag mine",
                settings=asdict(settings),
                seed=seed,
                inputs=inputs,
                made={
                    "samples": {side: sum(c.side == side for c in chosen) for side in SIDES},
                    "asked": asked,
                    "median_residual": median,
                    "layers": shape[0],
                    "neurons_per_layer": shape[1],
                    "stability": {
                        "rel": _mean_stability(atlas.stability_rel, atlas.rel, atlas.shared),
                        "irrel": _mean_stability(atlas.stability_irrel, atlas.irrel, atlas.shared),
                    },
                },
            )
            atlas.save(place, manifest, overwrite=overwrite)
            journal.remove()
        journal.barrier()
    return atlas


def most_frequent(counts: np.ndarray, scores: np.ndarray, k: int) -> np.ndarray:
    """Boolean choice, shaped as `counts`, of the k most often kept; ties by summed score.

    Neurons that no sample kept are never chosen.
    """
    order = np.lexsort((-scores.ravel(), -counts.ravel()))[:k]
    chosen = np.zeros(counts.size, dtype=bool)
    chosen[order] = counts.ravel()[order] > 0
    return chosen.reshape(counts.shape)


def _identity(settings: MiningSettings, seed: int, inputs: dict[str, str]) -> dict[str, Any]:
    """What a journal's records depend on; what is made of them afterwards may change."""
    of_records = {k: v for k, v in asdict(settings).items() if k not in AFTERWARDS}
    return {"settings": of_records, "seed": seed, "inputs": inputs}


def _aggregate(
    kept: Sequence[dict[str, Any]],
    chosen: Sequence[Context],
    shape: tuple[int, int],
    settings: MiningSettings,
    seed: int,
) -> NeuronAtlas:
    size = shape[0] * shape[1]
    k = max(1, round(settings.share * size))
    parts: dict[str, Any] = {}
    for side in SIDES:
        records = [r for r, context in zip(kept, chosen, strict=True) if context.side == side]
        hits = np.zeros((len(records), size), dtype=np.float32)
        scores = np.zeros(size)
        for row, record in enumerate(records):
            hits[row, record["index"]] = 1.0
            scores[record["index"]] += record["values"]
        counts = hits.sum(0)
        parts[side] = most_frequent(counts, scores, k)
        parts[f"scores_{side}"] = scores.reshape(shape).astype(np.float32)
        parts[f"counts_{side}"] = counts.reshape(shape).astype(np.int32)
        stability = _stability(hits, scores, k, settings.resamples, seed)
        parts[f"stability_{side}"] = stability.reshape(shape).astype(np.float32)
    sets = choose_sets(*(parts.pop(side).reshape(shape) for side in SIDES))
    residuals = np.array([record["residual"] for record in kept], dtype=np.float32)
    return NeuronAtlas(**sets, **parts, residuals=residuals)


def _stability(
    hits: np.ndarray, scores: np.ndarray, k: int, resamples: int, seed: int
) -> np.ndarray:
    """Share of bootstrap resamples over samples in which each neuron is among the k chosen."""
    rng = np.random.default_rng(seed)
    chosen = np.zeros(hits.shape[1])
    for _ in range(resamples):
        weights = np.bincount(rng.integers(0, len(hits), len(hits)), minlength=len(hits))
        chosen += most_frequent(weights.astype(np.float32) @ hits, scores, k)
    return chosen / resamples


def _mean_stability(stability: np.ndarray, *sets: np.ndarray) -> float:
    pairs = np.concatenate(sets).astype(np.int64)
    return float(stability[pairs[:, 0], pairs[:, 1]].mean()) if len(pairs) else 0.0
