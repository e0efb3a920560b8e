"""Tuning: the two stages of Neuro-RIT and its rivals, from examples to a plain checkpoint.

Stage 1 (noise suppression): on irrelevant context only, P_irrel learns to end the answer at once.
Stage 2 (evidence): on mixed context, P_rel learns from samples with evidence, P_irrel from those
without, P_shared from both, and the densest layers' blocks are trained fully.

Source: docs/method.md, Phase 2 [P, P2, I].
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from neurorit.core.artifact import Manifest, hash_inputs, writing
from neurorit.core.errors import BadInput
from neurorit.data.example_files import examples_file, read_examples
from neurorit.mining.atlas import SETS, NeuronAtlas
from neurorit.mining.controls import activity, control_atlas, control_layers
from neurorit.model.distributed import asked_to_shard, count, join, rank, wait
from neurorit.model.prompts import PromptTemplate
from neurorit.tuning.settings import RIVALS, TuneSettings

_ACTIVE = 64  # prompts whose neurons' activity is measured


def tune(
    model_dir: Path,
    examples: Path,
    out: Path,
    settings: TuneSettings,
    seed: int = 0,
    *,
    atlas: Path | None = None,
    adapter: Path | None = None,
    overwrite: bool = False,
    progress: Any = None,
) -> dict[str, Any]:
    """Tune the checkpoint at `model_dir` and write a plain Hugging Face checkpoint to `out`.

    adapter: where to write what changed, alone. progress: called with (stage, step, steps). A
    killed run goes on from its last saved state and ends in the same weights. torchrun or
    accelerate may start several processes. Raises BadInput for a method without its atlas, for
    examples that lack what a stage learns from, and for settings out of range.
    """
    from neurorit.model.checkpoint import checkpoint_dir, weights_digest
    from neurorit.model.feed_forward import check_tunable
    from neurorit.model.load import device_named
    from neurorit.tuning.adapter_file import save_adapter
    from neurorit.tuning.evidence import responses
    from neurorit.tuning.samples import make_samples

    if asked_to_shard():
        settings = replace(settings, shard=True)
    settings.check(atlas=atlas is not None, adapter=adapter is not None)
    out = Path(out)
    for place in (out, adapter):
        if place is not None and place.exists() and not overwrite:
            raise BadInput(f"{place} exists already; name another or pass --overwrite")
    source = examples_file(Path(examples))
    model_dir = checkpoint_dir(model_dir)
    check_tunable(model_dir)
    made_from = {"examples": Path(examples), **({"atlas": Path(atlas)} if atlas else {})}
    inputs = {**hash_inputs(**made_from), "model": weights_digest(model_dir)}
    neurons = NeuronAtlas.load(atlas) if atlas is not None else None
    if atlas is not None:
        NeuronAtlas.check_model(Path(atlas), inputs["model"])
    pool = list(read_examples(source))
    join(settings.device)
    if rank() > 0:
        wait()  # a teacher's replies are then in the cache
    said = responses(pool, settings.target, _teacher(settings, out), progress)
    if rank() == 0:
        wait()
    shard_on = device_named(settings.device) if settings.shard and count() > 1 else None
    model, tokenizer = _load(model_dir, settings, shard_on)
    template = PromptTemplate.of_checkpoint(model_dir)
    samples, dropped = make_samples(
        pool,
        tokenizer,
        template,
        settings.max_length,
        refuse=settings.method != "retrobust",
        responses=said,
    )
    if not samples:
        raise BadInput(f"{source}: every example is longer than max_length {settings.max_length}")
    plan = None
    if neurons is not None:
        plan = _choose(model, neurons, samples, settings, seed, f"--atlas {atlas}")
    state = out.with_name(f".{out.name}.tuning")
    identity = {"settings": asdict(settings), "seed": seed, "inputs": inputs}
    if shard_on is not None:
        identity["processes"] = count()  # each saves its part
    made: dict[str, Any] = {"samples": len(samples), "left_out_too_long": dropped}
    work = _Work(model_dir, tokenizer, settings, seed, state, out, identity, shard_on, progress)
    stages = _stages(samples, settings, plan, source)
    for number, stage in enumerate(stages, 1):
        made[stage.name] = work.train(stage, model)
        if shard_on is not None:
            # Its weights are sharded now. What goes on is a whole one that has learned the same.
            del model
            model = work.again(stages[:number]) if rank() == 0 or number < len(stages) else None
    manifest = Manifest(
        kind="checkpoint",
        command=f"neurorit-rag tune --method {settings.method}",
        settings=asdict(settings),
        seed=seed,
        inputs=inputs,
        made=made,
    )
    if rank() == 0:
        if adapter is not None and plan is not None:
            changed = np.concatenate([getattr(plan.atlas, name) for name in SETS])
            save_adapter(
                model,
                changed,
                () if settings.method == "stage1-only" else plan.dense,
                adapter,
                replace(manifest, kind="adapter"),
                overwrite=overwrite,
            )
        with writing(out, manifest, overwrite=overwrite) as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            template.save(folder)
        shutil.rmtree(state, ignore_errors=True)
    wait()
    return dict(made)


def _teacher(settings: TuneSettings, out: Path) -> Any:
    from neurorit.tuning.evidence import Teacher

    if not settings.teacher:
        return None
    cache = out.with_name(f"{out.name}-teacher.jsonl")
    return Teacher(settings.teacher, settings.teacher_model, cache)


@dataclass(frozen=True)
class _Plan:
    """The neurons and the dense layers that a method trains."""

    atlas: NeuronAtlas
    dense: tuple[int, ...]


def _choose(
    model: Any,
    atlas: NeuronAtlas,
    samples: Sequence[Any],
    settings: TuneSettings,
    seed: int,
    named: str,
) -> _Plan:
    """What the atlas says, or a control in its place."""
    from neurorit.model.feed_forward import feed_forward

    blocks = feed_forward(model)
    atlas.check_shape(blocks.depth, blocks.width, named)
    active = None
    if settings.method == "active-neurons":
        active = activity(model, [sample.prompt for sample in samples[:_ACTIVE]])
    dense = control_layers(atlas, settings.method, settings.dense_layers, seed)
    return _Plan(control_atlas(atlas, settings.method, active, seed), tuple(dense))


@dataclass(frozen=True)
class _Stage:
    """What is trained, on which samples, for how long.

    install: makes it in a model, for a device, when its turn comes.
    """

    name: str
    install: Any
    samples: Sequence[Any]
    steps: int
    rates: Any


def _stages(
    samples: Sequence[Any],
    settings: TuneSettings,
    plan: _Plan | None,
    source: Path,
) -> list[_Stage]:
    from neurorit.tuning.baselines import FullTuning, LoraTuning
    from neurorit.tuning.neuron_adapter import Group, NeuronAdapters

    def learned(trainable: Any) -> list[tuple[list[Any], float]]:
        return [(trainable.trained(), settings.learning_rate)]

    total = settings.stage1_steps + settings.steps
    if settings.method == "sft":
        return [_Stage("sft", lambda model, _: FullTuning(model), samples, total, learned)]
    if settings.method in RIVALS:

        def lora(model: Any, _: Any) -> LoraTuning:
            return LoraTuning(model, settings.lora_rank, settings.lora_alpha)

        return [_Stage(settings.method, lora, samples, total, learned)]
    assert plan is not None
    atlas = plan.atlas
    noise = [sample for sample in samples if not sample.evidence]
    _need(len(noise), "without evidence", source)
    _need(len(samples) - len(noise), "with evidence", source)

    def first(model: Any, device: Any) -> NeuronAdapters:
        groups = {"irrel": Group(atlas.irrel, from_evidence=False)}
        return NeuronAdapters(model, groups, device=device)

    def second(model: Any, device: Any) -> NeuronAdapters:
        groups = {
            "rel": Group(atlas.rel, from_noise=False),
            "irrel": Group(atlas.irrel, from_evidence=False),
            "shared": Group(atlas.shared),
        }
        return NeuronAdapters(model, groups, plan.dense, device)

    dense_rate = settings.dense_learning_rate or settings.learning_rate
    stage1 = _Stage(
        "stage1",
        first,
        noise,
        settings.stage1_steps,
        lambda adapters: [(adapters.deltas(), settings.stage1_learning_rate)],
    )
    stage2 = _Stage(
        "stage2",
        second,
        samples,
        settings.steps,
        lambda adapters: [
            (adapters.deltas(), settings.learning_rate),
            (adapters.dense(), dense_rate),
        ],
    )
    kept = {"stage1-only": [stage1], "stage2-only": [stage2]}.get(settings.method, [stage1, stage2])
    return [stage for stage in kept if stage.steps > 0]


@dataclass(frozen=True)
class _Work:
    """One run's stages, each trained or gone on with, and merged into the model."""

    model_dir: Path
    tokenizer: Any
    settings: TuneSettings
    seed: int
    state: Path
    out: Path
    identity: dict[str, Any]
    shard_on: Any
    progress: Any

    def train(self, stage: _Stage, model: Any) -> dict[str, Any]:
        """Train one stage; a model that is sharded over processes cannot be used afterwards."""
        run, trainable = self._installed(stage, model, self.shard_on)
        done: dict[str, Any] = run.train(
            stage.samples,
            f"{self.seed}/{stage.name}",
            self.tokenizer,
            self.state / stage.name,
            self.identity,
            self._report(stage),
            logs=self.out.with_name(f"{self.out.name}-logs") / stage.name,
        )
        if self.shard_on is None:
            trainable.merge()
        return done

    def again(self, stages: Sequence[_Stage]) -> Any:
        """A whole model that has learned what these finished stages taught."""
        from neurorit.model.load import release

        release()
        model, _ = _load(self.model_dir, self.settings, self.shard_on)
        for stage in stages:
            run, trainable = self._installed(stage, model, None)
            run.restore(self.state / stage.name, self.identity)
            trainable.merge()
        return model

    def _installed(self, stage: _Stage, model: Any, shard_on: Any) -> tuple[Any, Any]:
        import torch

        from neurorit.tuning.trainer import TrainingRun

        torch.manual_seed(self.seed)  # LoRA's start is random
        trainable = stage.install(model, shard_on)
        run = TrainingRun(
            model,
            trainable,
            lambda: stage.rates(trainable),
            stage.steps,
            self.settings,
            shard_on,
        )
        return run, trainable

    def _report(self, stage: _Stage) -> Any:
        if self.progress is None:
            return None
        return lambda step: self.progress(stage.name, step, stage.steps)


def _load(model_dir: Path, settings: TuneSettings, shard_on: Any) -> tuple[Any, Any]:
    """The model and its tokenizer; one that is to be sharded need not fit on a device whole."""
    from neurorit.model.load import load_model, make_savable

    device = "cpu" if shard_on is not None else settings.device
    model, tokenizer = load_model(model_dir, dtype=settings.dtype, device=device)
    make_savable(model)
    return model, tokenizer


def _need(count: int, what: str, source: Path) -> None:
    if not count:
        raise BadInput(f"{source}: no example {what} to tune on; mix some with `neurorit-rag mix`")
