"""The methods of tuning: what each trains, in which stages, on which samples.

Stage 1 (noise suppression): on irrelevant context only, P_irrel learns to end the answer at once.
Stage 2 (evidence): on mixed context, P_rel learns from samples with evidence, P_irrel from those
without, P_shared from both, and the densest layers' blocks are trained fully.

Source: docs/method.md, Phase 2 [P, P2, I].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurorit.core.errors import BadInput
from neurorit.mining.atlas import SETS, NeuronAtlas
from neurorit.tuning.baselines import FullTuning, LoraTuning, ReshapedMasks
from neurorit.tuning.neuron_adapter import Group, NeuronAdapters
from neurorit.tuning.resume import Named
from neurorit.tuning.samples import Sample
from neurorit.tuning.settings import TuneSettings


@dataclass(frozen=True)
class Task:
    """What a method is given.

    named: what the examples are called in messages; atlas: the mined neurons, or a control's, for
    methods that need them; dense: the layers to train fully.
    """

    samples: Sequence[Sample]
    settings: TuneSettings
    named: str
    atlas: NeuronAtlas | None = None
    dense: tuple[int, ...] = ()


@dataclass(frozen=True)
class Stage:
    """What is trained, on which samples, for how many steps.

    install: makes what is trained (`tuned_model.Trainable`) in a model, for a device, when its turn
    comes; rates: its named parameters, with the learning rate of each group.
    """

    name: str
    install: Callable[[Any, Any], Any]
    samples: Sequence[Sample]
    steps: int
    rates: Callable[[Any], list[tuple[Named, float]]]


@dataclass(frozen=True)
class Method:
    """A method of tuning.

    stages: in their order. needs_atlas: it tunes what was mined: its neurons, its dense layers,
    or both. refuses: it learns to say nothing where no evidence stands; else the answer everywhere.
    lays_out: its stages can be installed in a model whose weights are not there yet, so that
    processes that share them (`shard`) each read their part alone.
    """

    stages: Callable[[Task], list[Stage]]
    needs_atlas: bool = True
    refuses: bool = True
    neurons: bool = True
    dense: bool = True
    lays_out: bool = False


def suppression(task: Task) -> Stage:
    """Stage 1."""
    noise, _ = _parted(task)
    atlas, settings = _atlas(task), task.settings

    def install(model: Any, device: Any) -> NeuronAdapters:
        groups = {"irrel": Group(atlas.irrel, from_evidence=False)}
        return NeuronAdapters(model, groups, device=device)

    return Stage(
        "stage1",
        install,
        noise,
        settings.stage1_steps,
        lambda adapters: [(adapters.deltas(), settings.stage1_learning_rate)],
    )


def evidence(task: Task) -> Stage:
    """Stage 2."""
    _parted(task)
    atlas, settings = _atlas(task), task.settings

    def install(model: Any, device: Any) -> NeuronAdapters:
        groups = {
            "rel": Group(atlas.rel, from_noise=False),
            "irrel": Group(atlas.irrel, from_evidence=False),
            "shared": Group(atlas.shared),
        }
        return NeuronAdapters(model, groups, task.dense, device)

    dense_rate = settings.dense_learning_rate or settings.learning_rate
    return Stage(
        "stage2",
        install,
        task.samples,
        settings.steps,
        lambda adapters: [
            (adapters.deltas(), settings.learning_rate),
            (adapters.dense(), dense_rate),
        ],
    )


def _neurons(task: Task) -> list[Stage]:
    """All chosen neurons learn from every sample, in one stage."""
    _parted(task)
    atlas, settings = _atlas(task), task.settings

    def install(model: Any, device: Any) -> NeuronAdapters:
        sets = {name: Group(getattr(atlas, name)) for name in SETS}
        return NeuronAdapters(model, sets, device=device)

    rate = settings.learning_rate
    return [_one_stage(task, install, lambda adapters: [(adapters.deltas(), rate)])]


def _dense_only(task: Task) -> list[Stage]:
    """The dense layers' blocks learn from every sample, in one stage."""
    _parted(task)
    rate = task.settings.dense_learning_rate or task.settings.learning_rate

    def install(model: Any, device: Any) -> NeuronAdapters:
        return NeuronAdapters(model, {}, task.dense, device)

    return [_one_stage(task, install, lambda adapters: [(adapters.dense(), rate)])]


def _as_released(task: Task) -> list[Stage]:
    """Both stages with reshaped masks; gates learn in the first alone."""
    noise, _ = _parted(task)
    atlas, settings = _atlas(task), task.settings
    every = np.concatenate([getattr(atlas, name) for name in SETS])

    def masks(neurons: np.ndarray, dense: tuple[int, ...], gate: bool) -> Callable[..., Any]:
        def install(model: Any, device: Any) -> ReshapedMasks:
            if device is not None:
                raise BadInput("‹method=as-released›: its weights cannot be spread by ‹shard›")
            return ReshapedMasks(model, neurons, dense, gate=gate)

        return install

    def rates(trainable: Any) -> list[tuple[Named, float]]:
        rate = settings.learning_rate
        dense_rate = settings.dense_learning_rate or rate
        return [(trainable.scattered(), rate), (trainable.dense(), dense_rate)]

    return [
        Stage(
            "stage1",
            masks(atlas.irrel, (), True),
            noise,
            settings.stage1_steps,
            lambda trainable: [(trainable.scattered(), settings.stage1_learning_rate)],
        ),
        Stage("stage2", masks(every, task.dense, False), task.samples, settings.steps, rates),
    ]


def _full(task: Task) -> list[Stage]:
    return [_rival(task, lambda model, _: FullTuning(model))]


def _lora(task: Task) -> list[Stage]:
    settings = task.settings

    def install(model: Any, _: Any) -> LoraTuning:
        return LoraTuning(model, settings.lora_rank, settings.lora_alpha)

    return [_rival(task, install)]


def _rival(task: Task, install: Callable[[Any, Any], Any]) -> Stage:
    rate = task.settings.learning_rate
    return _one_stage(task, install, lambda trainable: [(trainable.trained(), rate)])


def _one_stage(
    task: Task,
    install: Callable[[Any, Any], Any],
    rates: Callable[[Any], list[tuple[Named, float]]],
) -> Stage:
    """Of a method that takes both stages' steps on stage 2's data."""
    settings = task.settings
    steps = settings.stage1_steps + settings.steps
    return Stage(settings.method, install, task.samples, steps, rates)


def _atlas(task: Task) -> NeuronAtlas:
    assert task.atlas is not None
    return task.atlas


def _parted(task: Task) -> tuple[list[Sample], list[Sample]]:
    """Samples without and with evidence; raises BadInput where there are none of one kind."""
    noise = [sample for sample in task.samples if not sample.evidence]
    told = [sample for sample in task.samples if sample.evidence]
    for held, what in ((noise, "without evidence"), (told, "with evidence")):
        if not held:
            raise BadInput(
                f"{task.named}: no example {what} to tune on; mix some with `neurorit-rag mix`"
            )
    return noise, told


BOTH_STAGES = Method(lambda task: [suppression(task), evidence(task)], lays_out=True)
STAGE1 = Method(lambda task: [suppression(task)], dense=False, lays_out=True)
STAGE2 = Method(lambda task: [evidence(task)], lays_out=True)
NEURONS = Method(_neurons, dense=False, lays_out=True)
DENSE_ONLY = Method(_dense_only, neurons=False, lays_out=True)
AS_RELEASED = Method(_as_released)
SFT = Method(_full, needs_atlas=False, lays_out=True)
LORA = Method(_lora, needs_atlas=False)
RETROBUST = Method(_lora, needs_atlas=False, refuses=False)
