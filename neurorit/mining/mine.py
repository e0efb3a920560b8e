"""Mining: attribution of every sample, aggregated into a neuron atlas.

Relevant contexts show the gold passages alone, irrelevant ones noise alone; each is compared with
the same question without passages. Every context's kept scores go to a journal as they are made, so
a killed run goes on where it was and ends in the same bytes (on a GPU, which sums in no fixed
order, to rounding). torchrun or accelerate may start several processes: lines of `pipeline` of them
part the model's layers, and share the contexts.

Source: docs/method.md, Phase 1, steps 3 and 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from neurorit.core.artifact import Manifest, check_place, hash_inputs, read_manifest
from neurorit.core.errors import BadInput
from neurorit.core.work_folder import work_folder
from neurorit.data.example_files import ExampleSource, examples_digest, examples_name, load_examples
from neurorit.data.plain_text import Text, read_texts
from neurorit.data.text import words
from neurorit.mining.atlas import NeuronAtlas, choose_sets
from neurorit.mining.collect import ASKED, Collected, Progress, Records, check_residual
from neurorit.mining.contexts import SIDES, Context, contexts
from neurorit.mining.journal import JOURNALS, Journal
from neurorit.mining.reading import CLASSES
from neurorit.mining.selection.choose import Evidence, budget_of, read_neurons, select
from neurorit.mining.selection.discovery import LEVEL, surviving
from neurorit.mining.selection.gradients import Measurements
from neurorit.mining.selection.rules import keep_scores, most_frequent
from neurorit.mining.settings import AFTERWARDS, FILES, MiningSettings, revisions
from neurorit.model.distributed import count, join, rank, wait
from neurorit.model.distributed.pipeline import Line
from neurorit.model.prompts import PromptTemplate
from neurorit.model.source import ModelSource

_REVISION = 2  # raise it where records of the program before must not stand beside new ones
_LAB = "lab"  # documents of the embedded world, which only the commands know


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
    general: Sequence[str | Text] | str | PathLike[str] | None = None,
    progress: Progress | None = None,
    measuring: Callable[[int, int], None] | None = None,
) -> NeuronAtlas:
    """Mine an atlas of a model from examples.

    model, tokenizer: both loaded, or a checkpoint's folder or hub name with None, which brings its
    own; a loaded model is used where it is, as it is (`dtype` and `device` of the settings are for
    folders), and given back as it came. examples: a file, what `mix` wrote, or examples in memory.
    template: the wording of prompts (None: the checkpoint's, or the default). out: where the
    artifact is written, beside a journal from which a killed run goes on; None writes nothing,
    and leaves a journal only where it fails.
    general: text that the model is to keep, or a file of it, in place of the setting's file, for
    selections that spare it. measuring: told how many of how many samples a selection has measured.

    Raises BadInput when the examples hold no sample of one side or the model follows none,
    NeuroritError when the completeness residual says that the scores do not add up.
    """
    settings = settings or MiningSettings()
    join(settings.device)
    if out is not None:
        check_place(Path(out), overwrite)
    if out is None and count() > 1:
        raise BadInput("‹out›: several processes share a journal beside it; name a place")
    pool = load_examples(examples)
    source = ModelSource.of(model, tokenizer, template)
    source.check_tunable()
    most = settings.samples * (ASKED if settings.contexts == "followed" else 1)
    candidates = list(
        contexts(
            pool,
            most,
            settings.noise_passages,
            seed,
            examples_name(examples),
            settings.layout,
            settings.task,
        )
    )
    inputs = {"examples": examples_digest(examples, pool), **source.inputs}
    files, revised = given_files(settings), revisions(settings)
    texts = _texts(settings, general)
    with work_folder(out, "atlas", JOURNALS) as (_, place), source.kept():
        line = Line.of(settings.pipeline)
        identity = _identity(settings, seed, {**inputs, **revised})
        journal = Journal(place, identity, line.number, line.lines, line.ends)
        records = Records(source, candidates, settings, journal, progress)
        collected = records.collect()
        chosen, kept = collected.contexts, collected.records
        shape = (int(kept[0]["shape"][0]), int(kept[0]["shape"][1]))
        atlas = _aggregate(kept, chosen, shape, settings, seed)
        atlas = replace(atlas, model=source.digest, site=settings.site)
        if settings.selection != "count" or settings.neurons is not None or settings.sizes:
            measure = Measurements(
                records.loaded,
                source.template,
                pool,
                texts,
                settings.measured,
                seed,
                settings.site,
                measuring,
            )
            atlas = _chosen(atlas, settings, seed, measure)
        median = float(np.median(atlas.residuals))
        check_residual(median, settings, len(kept))
        if out is not None and rank() == 0:
            manifest = Manifest(
                kind="atlas",
                command="neurorit-rag mine",
                settings=asdict(settings),
                seed=seed,
                inputs={**inputs, **hash_inputs(**files), **revised},
                made={
                    "samples": {side: sum(c.side == side for c in chosen) for side in SIDES},
                    "asked": {side: len(named) for side, named in collected.classes.items()},
                    "answered": {
                        side: {name: named.count(name) for name in CLASSES}
                        for side, named in collected.classes.items()
                    },
                    "gain": _gains(collected),
                    "shown": _shown(chosen),
                    "false_discovery": _survivors(atlas),
                    "prompt_date": source.template.date,
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
        wait()
    return atlas


def _identity(settings: MiningSettings, seed: int, inputs: dict[str, str]) -> dict[str, Any]:
    """What a journal's records depend on; what is made of them afterwards may change."""
    left_out = (*AFTERWARDS, "pipeline")  # who computes what changes nothing
    of_records = {k: v for k, v in asdict(settings).items() if k not in left_out}
    of_inputs = {k: v for k, v in inputs.items() if k not in left_out}
    return {"settings": of_records, "seed": seed, "inputs": of_inputs, "revision": _REVISION}


def given_files(settings: MiningSettings) -> dict[str, Path]:
    """Setting -> file that an atlas is made of beside its examples."""
    named = {name: Path(getattr(settings, name)) for name in FILES if getattr(settings, name)}
    return {name: path for name, path in named.items() if path.is_file()}


def _texts(
    settings: MiningSettings, general: Sequence[str | Text] | str | PathLike[str] | None
) -> list[Text]:
    if isinstance(general, (str, PathLike)):
        return read_texts(Path(general))
    if general is None and settings.general == _LAB and not Path(_LAB).exists():
        raise BadInput(
            "‹general=lab›: only the commands know the embedded world; give its documents as "
            "`general`: `neurorit.pipelines.general_texts.general_texts('lab', folder, 256, seed)`"
        )
    if general is not None:
        return [Text(one) if isinstance(one, str) else one for one in general]
    return read_texts(Path(settings.general)) if settings.general else []


def choose_again(
    directory: Path,
    model: Path,
    examples: Path,
    settings: MiningSettings,
    out: Path,
    *,
    general: Sequence[str | Text] | None = None,
    measuring: Callable[[int, int], None] | None = None,
) -> NeuronAtlas:
    """An atlas with the neurons of these settings, from one that was mined, written to `out`.

    The two may differ in the settings of the choice alone (`settings.OF_THE_CHOICE`). How stable
    each neuron is stays as it was mined.
    """
    former = read_manifest(directory, "atlas")
    atlas = NeuronAtlas.load(directory)
    source = ModelSource.of(model)
    seed = former.seed or 0
    texts, files = _texts(settings, general), given_files(settings)
    measure = Measurements(
        lambda: source.load(dtype=settings.dtype, device=settings.device),
        source.template,
        load_examples(examples),
        texts,
        settings.measured,
        seed,
        atlas.site,
        measuring,
    )
    chosen = _chosen(atlas, settings, seed, measure)
    kept = ("examples", "model", "config", "prompts", "method", "site")
    inputs = {name: former.inputs[name] for name in kept if name in former.inputs}
    manifest = replace(
        former,
        settings=asdict(settings),
        inputs={**revisions(settings), **inputs, **hash_inputs(**files)},
        made={**former.made, "false_discovery": _survivors(chosen)},
    )
    chosen.save(out, manifest, overwrite=True)
    return chosen


def _chosen(
    atlas: NeuronAtlas, settings: MiningSettings, seed: int, measure: Measurements
) -> NeuronAtlas:
    """The neurons that the settings' rule takes."""
    depth, width = atlas.scores_rel.shape
    listed = None
    if settings.neuron_list:
        listed = read_neurons(Path(settings.neuron_list), depth, width)
    budget = _budget(settings, (depth, width))
    if settings.neurons is not None:
        budget = budget_of(settings.neurons, depth * width)
    evidence = Evidence(
        atlas,
        budget,
        seed=seed,
        together=settings.neurons is not None,
        measure=measure,
        listed=listed,
        sizes=settings.sizes,
    )
    return select(evidence, settings.selection)


def _gains(collected: Collected) -> dict[str, Any]:
    """Of each side's attributed contexts: what they add to F, and how much of it neurons carry.

    context, neurons: quartiles with the extremes; carried: the share of the contexts' summed gain
    that goes when all neurons are put back; left_out: contexts that gain too little to vote.
    """
    told: dict[str, Any] = {}
    for side in SIDES:
        records = collected.tried.get(side) or [
            record
            for record, context in zip(collected.records, collected.contexts, strict=True)
            if context.side == side
        ]
        gains = {
            name: np.array([record[f"{key}_gain"] for record in records])
            for name, key in (("context", "context"), ("neurons", "neuron"))
        }
        total = float(gains["context"].sum())
        counted = sum(context.side == side for context in collected.contexts)
        told[side] = {
            "attributed": len(records),
            "left_out": len(records) - counted,
            **{
                name: [float(value) for value in np.quantile(values, [0, 0.25, 0.5, 0.75, 1])]
                for name, values in gains.items()
            },
            "carried": float(gains["neurons"].sum()) / total if total > 0 else None,
        }
    return told


def _survivors(atlas: NeuronAtlas) -> dict[str, float] | None:
    """How many neurons of each set survive the false-discovery cut; None where nothing varies."""
    if min(len(atlas.sample_ends_rel), len(atlas.sample_ends_irrel)) < 3:
        return None
    return {"level": LEVEL, **surviving(atlas)}


def _shown(chosen: Sequence[Context]) -> dict[str, dict[str, float]]:
    """Mean number of passages in a context of each side, and of words in them together."""
    return {
        side: {
            "passages": float(np.mean([len(c.passages) for c in chosen if c.side == side])),
            "words": float(
                np.mean(
                    [sum(len(words(p.text)) for p in c.passages) for c in chosen if c.side == side]
                )
            ),
        }
        for side in SIDES
    }


def _aggregate(
    kept: Sequence[dict[str, Any]],
    chosen: Sequence[Context],
    shape: tuple[int, int],
    settings: MiningSettings,
    seed: int,
) -> NeuronAtlas:
    size, k = shape[0] * shape[1], _budget(settings, shape)
    parts: dict[str, Any] = {}
    for side in SIDES:
        records = [r for r, context in zip(kept, chosen, strict=True) if context.side == side]
        hits = np.zeros((len(records), size), dtype=np.float32)
        scores = np.zeros(size)
        for row, record in enumerate(records):
            every = np.asarray(record["values"])
            places, values = keep_scores(every, settings.threshold, settings.top)
            neurons = np.asarray(record["index"], dtype=np.int64)[places]
            hits[row, neurons] = 1.0
            scores[neurons] += values
        counts = hits.sum(0)
        parts[side] = most_frequent(counts, scores, k)
        parts[f"scores_{side}"] = scores.reshape(shape).astype(np.float32)
        parts[f"counts_{side}"] = counts.reshape(shape).astype(np.int32)
        stability = _stability(hits, scores, k, settings.resamples, seed)
        parts[f"stability_{side}"] = stability.reshape(shape).astype(np.float32)
        parts.update(_stored(side, records))
    sets = choose_sets(*(parts.pop(side).reshape(shape) for side in SIDES))
    residuals = np.array([record["residual"] for record in kept], dtype=np.float32)
    return NeuronAtlas(**sets, **parts, residuals=residuals)


def _budget(settings: MiningSettings, shape: tuple[int, int]) -> int:
    """K, the neurons of a side; of a budget of all sets together half, as if none were shared."""
    size = shape[0] * shape[1]
    if settings.neurons is not None:
        return (budget_of(settings.neurons, size) + 1) // 2
    return max(1, round(settings.share * size))


def _stored(side: str, records: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """The samples' own scores, one after the other."""
    ends = np.cumsum([0, *(len(record["index"]) for record in records)])
    return {
        f"sample_ends_{side}": ends.astype(np.int64),
        f"sample_neurons_{side}": np.concatenate(
            [np.asarray(record["index"], dtype=np.int32) for record in records]
        ),
        f"sample_scores_{side}": np.concatenate(
            [np.asarray(record["values"], dtype=np.float32) for record in records]
        ),
    }


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
