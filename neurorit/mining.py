"""Mining: attribution of every sample, aggregated into a neuron atlas.

Relevant samples show the gold passages alone, irrelevant ones noise alone; each is compared with
the same question without passages. Every sample's kept scores go to a journal as they are made, so
a killed run goes on where it was and ends in the same bytes.

Source: METHOD.md, Phase 1, steps 3 and 4. It knows nothing of how gradients are taken.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurorit.atlas import NeuronAtlas, choose_sets
from neurorit.prompts import PromptTemplate, encode_answer, render_prompt
from retrieval.artifact import Manifest, hash_inputs
from retrieval.errors import BadInput, NeuroritError
from retrieval.examples import Example, Passage, examples_file, read_examples

RELEVANT, IRRELEVANT = "rel", "irrel"
_NOISE = ("distractor", "random", "near-duplicate")


@dataclass(frozen=True)
class MiningSettings:
    """How neurons are mined.

    samples: most samples of each side. noise_passages: passages in an irrelevant sample. method,
    objective, steps, rows: see attribution.attribute. irrelevant_target: what the irrelevant
    side's F is of, "own-answer" (what the model says when misled) or "gold" [I]. threshold: scores
    under this share of the sample's largest are dropped [K]; top: most neurons kept per sample.
    share: K as a share of all neurons, the same for both sides [I]. resamples: of the bootstrap.
    max_residual: an atlas whose median completeness residual is above is refused; force keeps it.
    """

    samples: int = 128
    noise_passages: int = 1
    method: str = "integrated-gradients"
    objective: str = "first-token"
    steps: int = 20
    rows: int = 512
    irrelevant_target: str = "own-answer"
    threshold: float = 0.1
    top: int = 200
    share: float = 0.05
    resamples: int = 200
    max_residual: float = 0.05
    dtype: str = "float32"
    device: str = "auto"
    force: bool = False


@dataclass(frozen=True)
class _Sample:
    key: str
    side: str
    question: str
    passages: tuple[Passage, ...]
    answer: str


def mine(
    model_dir: Path,
    examples: Path,
    out: Path,
    settings: MiningSettings,
    seed: int = 0,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> NeuronAtlas:
    """Mine an atlas of a model from examples (a file or an artifact) and write it to `out`.

    Raises BadInput when the examples hold no sample of one side, NeuroritError when the
    completeness residual says that the scores do not add up.
    """
    _check(settings)
    out = Path(out)
    if out.exists() and not overwrite:
        raise BadInput(f"{out} exists already; name another --out or pass --overwrite")
    source = examples_file(Path(examples))
    samples = list(_samples(source, settings, seed))
    inputs = hash_inputs(examples=Path(examples), model=Path(model_dir) / "model.safetensors")
    identity = {"settings": asdict(settings), "seed": seed, "inputs": inputs}
    journal = out.with_name(f".{out.name}.journal.jsonl")
    kept = _attribute_all(Path(model_dir), samples, settings, journal, identity, progress)
    shape = (int(kept[0]["shape"][0]), int(kept[0]["shape"][1]))
    atlas = _aggregate(kept, samples, shape, settings, seed)
    median = float(np.median(atlas.residuals))
    if median > settings.max_residual and not settings.force:
        raise NeuroritError(
            f"the median completeness residual is {median:.1%}, above {settings.max_residual:.0%}: "
            "the scores do not add up; raise `steps`, or keep the atlas with `force`"
        )
    manifest = Manifest(
        kind="atlas",
        command="neurorit-rag mine",
        settings=asdict(settings),
        seed=seed,
        inputs=inputs,
        made={
            "samples": {side: sum(s.side == side for s in samples) for side in ("rel", "irrel")},
            "median_residual": median,
            "layers": shape[0],
            "neurons_per_layer": shape[1],
            "stability": {
                "rel": _mean_stability(atlas.stability_rel, atlas.rel, atlas.shared),
                "irrel": _mean_stability(atlas.stability_irrel, atlas.irrel, atlas.shared),
            },
        },
    )
    atlas.save(out, manifest, overwrite=overwrite)
    journal.unlink(missing_ok=True)
    return atlas


def keep_scores(scores: np.ndarray, threshold: float, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices and values of the scores above `threshold` of the largest, at most `top` [K].

    A sample whose scores are all zero or negative keeps none.
    """
    flat = np.asarray(scores, dtype=np.float64).ravel()
    largest = float(flat.max(initial=0.0))
    if largest <= 0.0:
        return np.empty(0, np.int64), np.empty(0)
    order = np.argsort(-flat, kind="stable")[:top]
    order = order[flat[order] > threshold * largest]
    order = np.sort(order)
    return order, flat[order]


def most_frequent(counts: np.ndarray, scores: np.ndarray, k: int) -> np.ndarray:
    """Boolean choice, shaped as `counts`, of the k most often kept; ties by summed score.

    Neurons that no sample kept are never chosen.
    """
    order = np.lexsort((-scores.ravel(), -counts.ravel()))[:k]
    chosen = np.zeros(counts.size, dtype=bool)
    chosen[order] = counts.ravel()[order] > 0
    return chosen.reshape(counts.shape)


def _check(settings: MiningSettings) -> None:
    from neurorit.attribution import METHODS, OBJECTIVES

    allowed = {
        "method": METHODS,
        "objective": OBJECTIVES,
        "irrelevant_target": ("own-answer", "gold"),
    }
    for name, values in allowed.items():
        if getattr(settings, name) not in values:
            raise BadInput(f"mine: {name} must be one of {', '.join(values)}")
    for name in ("samples", "noise_passages", "steps", "rows", "top", "resamples"):
        if getattr(settings, name) < 1:
            raise BadInput(f"mine: {name} must be at least 1")
    if not 0.0 < settings.share <= 1.0:
        raise BadInput("mine: share must be above 0 and at most 1")


def _samples(source: Path, settings: MiningSettings, seed: int) -> Iterator[_Sample]:
    """Up to `samples` of each side, one per example and side, in an order drawn from the seed."""
    pool = list(read_examples(source))
    order = sorted(pool, key=lambda e: hashlib.sha256(f"{seed}/{e.id}".encode()).digest())
    for side in (RELEVANT, IRRELEVANT):
        found = 0
        for example in order:
            passages = _passages(example, side, settings.noise_passages)
            if passages and found < settings.samples:
                found += 1
                yield _Sample(
                    f"{side}/{example.id}", side, example.question, passages, example.answers[0]
                )
        if not found:
            wanted = "a gold passage" if side == RELEVANT else "a distractor or random passage"
            raise BadInput(f"{source}: no example holds {wanted}; mix some with `neurorit-rag mix`")


def _passages(example: Example, side: str, noise: int) -> tuple[Passage, ...]:
    if side == RELEVANT:
        return tuple(p for p in example.passages if p.kind == "gold")
    return tuple(p for p in example.passages if p.kind in _NOISE)[:noise]


def _attribute_all(
    model_dir: Path,
    samples: Sequence[_Sample],
    settings: MiningSettings,
    journal: Path,
    identity: dict[str, Any],
    progress: Callable[[int, int], None] | None,
) -> list[dict[str, Any]]:
    """One record per sample, in order; those in the journal are not made again."""
    done = _read_journal(journal, identity)
    left = [sample for sample in samples if sample.key not in done]
    if left:
        journal.parent.mkdir(parents=True, exist_ok=True)
        model, tokenizer, template = _load(model_dir, settings)
        with open(journal, "a", encoding="utf-8") as stream:
            if not done:
                stream.truncate(0)
                stream.write(json.dumps(identity) + "\n")
            for sample in left:
                record = _attribute_one(model, tokenizer, template, sample, settings)
                stream.write(json.dumps(record) + "\n")
                stream.flush()
                done[sample.key] = record
                if progress is not None:
                    progress(len(done), len(samples))
            os.fsync(stream.fileno())
    # Records are read back from JSON either way, so a resumed run has the same numbers.
    return [json.loads(json.dumps(done[sample.key])) for sample in samples]


def _load(model_dir: Path, settings: MiningSettings) -> tuple[Any, Any, PromptTemplate]:
    from neurorit.models import load_model

    model, tokenizer = load_model(model_dir, dtype=settings.dtype, device=settings.device)
    model.requires_grad_(False)
    return model, tokenizer, PromptTemplate.of_checkpoint(model_dir)


def _attribute_one(
    model: Any,
    tokenizer: Any,
    template: PromptTemplate,
    sample: _Sample,
    settings: MiningSettings,
) -> dict[str, Any]:
    from neurorit.attribution import attribute

    own = sample.side == IRRELEVANT and settings.irrelevant_target == "own-answer"
    target = None if own else encode_answer(tokenizer, template, sample.answer)[0]
    found = attribute(
        model,
        render_prompt(tokenizer, template, sample.question, sample.passages),
        render_prompt(tokenizer, template, sample.question, ()),
        target,
        steps=settings.steps,
        rows=settings.rows,
        objective=settings.objective,
        method=settings.method,
    )
    index, values = keep_scores(found.scores.numpy(), settings.threshold, settings.top)
    return {
        "key": sample.key,
        "shape": list(found.scores.shape),
        "index": index.tolist(),
        "values": [float(value) for value in values],
        "residual": found.residual,
        "target": found.target,
    }


def _read_journal(journal: Path, identity: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Records of an earlier run of the same model, data and settings; a torn last line is left."""
    if not journal.is_file():
        return {}
    lines = journal.read_text(encoding="utf-8", errors="replace").split("\n")
    complete = lines[:-1]
    if not complete or complete[0] != json.dumps(identity):
        return {}
    records = {}
    for line in complete[1:]:
        record = json.loads(line)
        records[record["key"]] = record
    if lines[-1]:
        # Cut the torn line off, so that what is appended starts on a line of its own.
        with open(journal, "r+", encoding="utf-8") as stream:
            stream.truncate(len(("\n".join(complete) + "\n").encode("utf-8")))
    return records


def _aggregate(
    kept: Sequence[dict[str, Any]],
    samples: Sequence[_Sample],
    shape: tuple[int, int],
    settings: MiningSettings,
    seed: int,
) -> NeuronAtlas:
    size = shape[0] * shape[1]
    k = max(1, round(settings.share * size))
    parts: dict[str, Any] = {}
    for side in (RELEVANT, IRRELEVANT):
        records = [r for r, sample in zip(kept, samples, strict=True) if sample.side == side]
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
    sets = choose_sets(parts.pop(RELEVANT).reshape(shape), parts.pop(IRRELEVANT).reshape(shape))
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
