"""The methods of tuning: what each trains, in which stages, on which samples.

Stage 1 (noise suppression): on irrelevant context only, P_irrel learns to end the answer at once,
and what the base says where evidence stands may be held.
Stage 2 (evidence): on mixed context, P_rel learns from samples with evidence, P_irrel from those
without, P_shared from both, and the densest layers' blocks are trained fully.

Source: docs/method.md, Phase 2 [P, P2, I].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from neurorit.core.errors import BadInput
from neurorit.mining.atlas import FEED_FORWARD, SETS, NeuronAtlas
from neurorit.tuning.neuron_adapter import Group, NeuronAdapters
from neurorit.tuning.resume import Named
from neurorit.tuning.rivals.full import FullTuning
from neurorit.tuning.rivals.low_rank import LoraTuning, ShiraTuning, adapted_linears, rank_of
from neurorit.tuning.rivals.reshaped_masks import ReshapedMasks
from neurorit.tuning.rivals.s2ft import S2ft
from neurorit.tuning.samples import Sample
from neurorit.tuning.settings import FIRST_STAGE, TuneSettings


@dataclass(frozen=True)
class Task:
    """What a method is given.

    named: what the examples are called in messages; atlas: the mined neurons, or a control's, for
    methods that need them; dense: the layers to train fully; seed: of what a method draws.
    """

    samples: Sequence[Sample]
    settings: TuneSettings
    named: str
    atlas: NeuronAtlas | None = None
    dense: tuple[int, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Stage:
    """What is trained, on which samples, for how many steps.

    install: makes what is trained (`tuned_model.Trainable`) in a model, for a device, when its turn
    comes; rates: its named parameters, with the learning rate of each group. told: samples with
    evidence that it may hold, where it learns from none; patience: measures without a better
    selectivity after which it ends, 0 for never.
    """

    name: str
    install: Callable[[Any, Any], Any]
    samples: Sequence[Sample]
    steps: int
    rates: Callable[[Any], list[tuple[Named, float]]]
    told: Sequence[Sample] = ()
    patience: int = 0


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
    noise, told = _parted(task)
    atlas, settings = _atlas(task), task.settings

    def install(model: Any, device: Any) -> NeuronAdapters:
        sets = {str(n): Group(getattr(atlas, n), from_evidence=False) for n in settings.stage1_sets}
        return NeuronAdapters(model, sets, device=device, site=atlas.site)

    return Stage(
        FIRST_STAGE,
        install,
        noise,
        settings.stage1_steps,
        lambda adapters: [(adapters.deltas(), settings.stage1_learning_rate)],
        told,
        settings.stage1_patience,
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
        return NeuronAdapters(model, groups, task.dense, device, atlas.site)

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
    atlas, settings = _atlas(task), task.settings

    def install(model: Any, device: Any) -> NeuronAdapters:
        sets = {name: Group(getattr(atlas, name)) for name in SETS}
        return NeuronAdapters(model, sets, device=device, site=atlas.site)

    rate = settings.learning_rate
    return [_one_stage(task, install, lambda adapters: [(adapters.deltas(), rate)])]


def _dense_only(task: Task) -> list[Stage]:
    """The dense layers' blocks learn from every sample, in one stage."""
    rate = task.settings.dense_learning_rate or task.settings.learning_rate
    site = _atlas(task).site

    def install(model: Any, device: Any) -> NeuronAdapters:
        return NeuronAdapters(model, {}, task.dense, device, site)

    return [_one_stage(task, install, lambda adapters: [(adapters.dense(), rate)])]


def _as_released(task: Task) -> list[Stage]:
    """Both stages with reshaped masks; gates learn in the first alone."""
    noise, told = _parted(task)
    atlas, settings = _atlas(task), task.settings
    if atlas.site != FEED_FORWARD:
        raise BadInput(
            f"‹method=as-released›: its masks are of {FEED_FORWARD} neurons, and the atlas is of "
            f"the site {atlas.site}"
        )
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
            FIRST_STAGE,
            masks(atlas.irrel, (), True),
            noise,
            settings.stage1_steps,
            lambda trainable: [(trainable.scattered(), settings.stage1_learning_rate)],
            told,
            settings.stage1_patience,
        ),
        Stage("stage2", masks(every, task.dense, False), task.samples, settings.steps, rates),
    ]


def _full(task: Task) -> list[Stage]:
    return [_rival(task, lambda model, _: FullTuning(model))]


def _lora(task: Task) -> list[Stage]:
    settings = task.settings

    def install(model: Any, _: Any) -> LoraTuning:
        return lora(model, settings)

    return [_rival(task, install)]


def lora(model: Any, settings: TuneSettings) -> LoraTuning:
    """LoRA of the settings' rank, or at their budget; its scale over its rank stays the same."""
    rank = rival_rank(model, settings)
    alpha = settings.lora_alpha * rank / settings.lora_rank
    return LoraTuning(model, rank, alpha)


def rival_rank(model: Any, settings: TuneSettings) -> int:
    """The rank that the settings name, or that their budget comes to."""
    budget = settings.rival_parameters
    return rank_of(model, budget) if budget else settings.lora_rank


def s2ft_parameters(model: Any, settings: TuneSettings) -> int:
    """What the settings let s2ft train: their budget, or as many as LoRA of their rank has."""
    each = sum(m + n for m, n in adapted_linears(model).values())
    return settings.rival_parameters or settings.lora_rank * each


def _shira(task: Task) -> list[Stage]:
    def install(model: Any, _: Any) -> ShiraTuning:
        return ShiraTuning(model, rival_rank(model, task.settings))

    return [_rival(task, install)]


def _s2ft(task: Task) -> list[Stage]:
    def install(model: Any, device: Any) -> S2ft:
        return S2ft(model, s2ft_parameters(model, task.settings), task.seed, device)

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
    """Samples that end at once without evidence, and those with some.

    Raises BadInput where there are none of one kind.
    """
    # Whatever stage 2 is to say there in words, stage 1 ends at once.
    noise = [replace(s, response=s.response[-1:]) for s in task.samples if not s.evidence]
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
SHIRA = Method(_shira, needs_atlas=False)
S2FT = Method(_s2ft, needs_atlas=False)
