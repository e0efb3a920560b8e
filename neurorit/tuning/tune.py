"""Tuning: a method's stages, from examples and mined neurons to a model or a plain checkpoint."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neurorit.core.artifact import Manifest, check_place, hash_inputs, writing
from neurorit.core.errors import BadInput
from neurorit.core.locks import locked
from neurorit.data.example_files import ExampleSource, examples_digest, examples_name, load_examples
from neurorit.data.examples import Example
from neurorit.mining.atlas import SETS, NeuronAtlas
from neurorit.mining.controls import activity, control_atlas, control_layers
from neurorit.mining.settings import SITES
from neurorit.model.distributed import asked_to_shard, count, join, rank, wait
from neurorit.model.distributed.weights import is_in_parts
from neurorit.model.feed_forward import Site
from neurorit.model.generation import context_of
from neurorit.model.load import device_named, laid_out, load_model, make_savable, release
from neurorit.model.memory import giving_back
from neurorit.model.prompts import PromptTemplate
from neurorit.model.source import ModelSource
from neurorit.model.undisturbed import undisturbed
from neurorit.tuning.adapter_file import save_adapter
from neurorit.tuning.evidence import Teacher, responses
from neurorit.tuning.fsdp import kinds_of, write_parts
from neurorit.tuning.hold import (
    Measured,
    draw_measured,
    held_samples,
    text_samples,
)
from neurorit.tuning.samples import Sample, make_samples
from neurorit.tuning.settings import HOLD, TUNINGS, TuneSettings, settings_inputs
from neurorit.tuning.stages import Stage, Task
from neurorit.tuning.trainer import TrainingRun

_ACTIVE = 64  # prompts whose neurons' activity is measured
_REVISION = 2  # raise it where a program of before saved states that this one must not go on from


def tune(
    model: Any,
    tokenizer: Any,
    examples: ExampleSource,
    atlas: NeuronAtlas | str | PathLike[str] | None = None,
    settings: TuneSettings | None = None,
    *,
    seed: int = 0,
    template: PromptTemplate | None = None,
    in_place: bool = False,
    out: str | PathLike[str] | None = None,
    adapter: str | PathLike[str] | None = None,
    overwrite: bool = False,
    progress: Any = None,
) -> Any:
    """Tune a model; returns it in evaluation mode, with `tuning_record`: what each stage did.

    model, tokenizer: both loaded, or a checkpoint's folder or hub name with None, which brings its
    own. A loaded model stays as it is and a copy of it is tuned, unless `in_place`, which leaves
    one of no use where it fails; `dtype` and
    `device` of the settings are for folders. examples: a file, what `mix` wrote, or examples in
    memory. atlas: what `mine` returned or wrote, for methods that tune neurons. template: the
    wording of prompts (None: the checkpoint's, or the default).

    out: where a plain Hugging Face checkpoint is written, beside saved states from which a killed
    run goes on to the same weights; None writes nothing. adapter: where to write what changed,
    alone. progress: called with (stage, step, steps). torchrun or accelerate may start several
    processes; where they share the weights (`shard`), the first returns a layout without weights,
    which no process ever had whole: they stand in `out`. (LoRA and parts from elsewhere are loaded
    whole, and the first returns the model.) Raises
    BadInput for a method without its atlas, for an atlas of other weights, for examples that lack
    what a stage learns from, and for settings out of range.
    """
    settings = settings or TuneSettings()
    if asked_to_shard():
        settings = replace(settings, shard=True)
    settings.check(atlas=atlas is not None, adapter=adapter is not None)
    _check_places(settings, out, adapter, overwrite)
    method = TUNINGS.get(settings.method, "--method")
    pool = load_examples(examples)
    source = ModelSource.of(model, tokenizer, template)
    of_model = source.inputs
    source = replace(source, template=source.template.worded(settings.wording))
    source.check_tunable()
    inputs = {"examples": examples_digest(examples, pool), **settings_inputs(settings)}
    neurons: NeuronAtlas | None = None
    if isinstance(atlas, NeuronAtlas):
        neurons = atlas
        inputs["atlas"] = atlas.digest
    elif atlas is not None:
        neurons = NeuronAtlas.load(Path(atlas))
        inputs |= hash_inputs(atlas=Path(atlas))
    inputs |= of_model
    if neurons is not None and neurons.model and not source.has_weights(neurons.model):
        raise BadInput(_of_other_weights(atlas))
    join(settings.device)
    freed = giving_back() if device_named(settings.device).type == "cpu" else nullcontext()
    shard_on = device_named(settings.device) if settings.shard and count() > 1 else None
    in_parts = False
    if shard_on is not None and method.lays_out and source.folder is not None:
        in_parts = is_in_parts(laid_out(source.folder)[0], source.folder)
    if shard_on is not None and source.folder is None:
        raise BadInput("shard: the weights of a loaded model cannot be spread; give its folder")
    source = source if in_place else source.copied()
    if in_place and source.folder is None:
        source.loaded.neurorit_unfinished = True
    with (
        freed,
        undisturbed(),
        tempfile.TemporaryDirectory() as nowhere,
        source.kept(),
        ExitStack() as held,
    ):
        place = Path(nowhere) / "tuned" if out is None else Path(out)
        said = _responses(pool, settings, place, progress)
        tuned, words = _load(source, settings, shard_on, in_parts, savable=out is not None)
        longest = min(settings.max_length, context_of(tuned))
        samples, dropped = make_samples(
            pool,
            words,
            source.template,
            longest,
            refuse=method.refuses,
            responses=said,
            refusal=settings.refusal,
        )
        named = examples_name(examples)
        if not samples:
            raise BadInput(f"{named}: every example is longer than {_limit(settings, longest)}")
        measured, samples = draw_measured(samples, settings, seed, named)
        text: list[Sample] = []
        if settings.holds and "text" in settings.kl_on:
            text = text_samples(pool, words, settings, seed)
        called = f"‹atlas={atlas}›" if isinstance(atlas, (str, PathLike)) else "atlas"
        whole = tuned
        if in_parts and settings.method == "active-neurons":
            whole, _ = _load(source, settings, shard_on)  # its neurons' activity is measured
        task = _task(whole, samples, settings, neurons, seed, named, called)
        del whole
        state = place.with_name(f".{place.name}.tuning")
        identity: dict[str, Any] = {"settings": asdict(settings), "seed": seed, "inputs": inputs}
        identity["revision"] = _REVISION
        made: dict[str, Any] = {"samples": len(samples), "left_out_too_long": dropped}
        if count() > 1:
            # A step learns from samples of each; of what is sharded each saves its part.
            identity["processes"] = made["processes"] = count()
        work = _Work(
            source,
            words,
            settings,
            seed,
            state,
            place,
            identity,
            shard_on,
            progress,
            text,
            measured,
        )
        if rank() == 0:
            held.enter_context(_alone(state))
        stages = [stage for stage in method.stages(task) if stage.steps > 0]
        parts = _Parts(source, settings, state, kinds_of(tuned)) if in_parts else None
        for number, stage in enumerate(stages, 1):
            if parts is not None and number > 1:
                parts.keep(tuned, stages[number - 2].name)
                tuned = parts.laid_out()
            made[stage.name] = work.train(stage, tuned, parts.weights if parts else None)
            if shard_on is not None and parts is None:
                # Its weights are sharded now: what goes on is a whole one that learned the same.
                del tuned
                tuned = work.again(stages[:number]) if rank() == 0 or number < len(stages) else None
        if parts is not None and rank() > 0:
            write_parts(tuned, None, parts.kinds)
        if rank() == 0 and out is not None:
            manifest = Manifest(
                kind="checkpoint",
                command=f"neurorit-rag tune --method {settings.method}",
                settings=asdict(settings),
                seed=seed,
                inputs=inputs,
                made=made,
            )
            with writing(place, manifest, overwrite=overwrite) as folder:
                if parts is not None:
                    write_parts(tuned, folder, parts.kinds)
                else:
                    tuned.save_pretrained(folder)
                words.save_pretrained(folder)
                source.template.save(folder)
            if adapter is not None and task.atlas is not None:
                names = SETS if method.neurons else ()
                sets = [np.empty((0, 2), np.int32), *(getattr(task.atlas, n) for n in names)]
                save_adapter(
                    tuned if parts is None else load_model(place, dtype="auto", device="cpu")[0],
                    np.concatenate(sets),
                    task.dense if method.dense else (),
                    Path(adapter),
                    replace(manifest, kind="adapter"),
                    site=task.atlas.site,
                    template=source.template,
                    overwrite=overwrite,
                )
            shutil.rmtree(state, ignore_errors=True)
        wait()
    if out is None and dropped:
        warnings.warn(
            f"{dropped} of {len(pool)} examples were left out: they are longer than "
            f"{_limit(settings, longest)}",
            stacklevel=2,
        )
    if in_parts:
        tuned = _load(source, settings, shard_on, True)[0] if rank() == 0 else None
    if tuned is not None:
        tuned.eval()
        tuned.tuning_record = made
        source.template.keep_with(tuned)
        vars(tuned).pop("neurorit_unfinished", None)
    return tuned


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Hold the folder of saved states; raises BadInput where another training writes there."""
    state.mkdir(parents=True, exist_ok=True)
    busy = f"{state}: another training writes its states there; wait for it, or name another ‹out›"
    with locked(state, busy, folder=True):
        yield


def _check_places(settings: TuneSettings, out: Any, adapter: Any, overwrite: bool) -> None:
    """Raise BadInput for a place that is taken, and for what is written beside no checkpoint."""
    for place in (out, adapter):
        if place is not None:
            check_place(Path(place), overwrite)
    if out is not None:
        return
    if adapter is not None:
        raise BadInput("‹adapter›: it belongs to a checkpoint; name a place for that with ‹out›")
    if count() > 1:
        raise BadInput("‹out›: several processes share states beside it; name a place")
    if settings.report_to not in ("", "none"):
        raise BadInput("report_to: what is logged lies beside the checkpoint; name `out`")


def _limit(settings: TuneSettings, longest: int) -> str:
    if longest < settings.max_length:
        return f"the {longest} tokens that the model takes"
    return f"max_length {longest}"


def _of_other_weights(atlas: Any) -> str:
    if isinstance(atlas, (str, PathLike)):
        return (
            f"‹atlas={atlas}› was mined from other weights than ‹model›; mine this model (the "
            "command `tune` does, where ‹atlas› is left out)"
        )
    return "‹atlas›: it was mined from other weights than these; mine this model"


def _responses(
    pool: Sequence[Example], settings: TuneSettings, out: Path, progress: Any
) -> Mapping[str, str]:
    """What to say to each example with evidence; one process asks the teacher for all."""
    teacher = None
    if settings.teacher:
        cache = out.with_name(f"{out.name}-teacher")
        teacher = Teacher(
            settings.teacher, settings.teacher_model, cache, request=settings.teacher_request
        )
    if rank() > 0:
        wait()  # a teacher's replies are then in the cache
    said = responses(pool, settings.target, teacher, progress)
    if rank() == 0:
        wait()
    return said


def _task(
    model: Any,
    samples: Sequence[Sample],
    settings: TuneSettings,
    neurons: NeuronAtlas | None,
    seed: int,
    named: str,
    atlas_named: str,
) -> Task:
    """What the atlas says, or a control in its place."""
    if neurons is None:
        return Task(samples, settings, named, seed=seed)
    blocks: Site = SITES.get(neurons.site)(model)
    neurons.check_shape(blocks.depth, blocks.width, atlas_named, neurons.site)
    active = None
    if settings.method == "active-neurons":
        active = activity(model, [sample.prompt for sample in samples[:_ACTIVE]], blocks=blocks)
    dense = control_layers(neurons, settings.method, settings.dense_layers, seed)
    atlas = control_atlas(neurons, settings.method, active, seed)
    return Task(samples, settings, named, atlas, tuple(dense), seed)


@dataclass(frozen=True)
class _Work:
    """One run's stages, each trained or gone on with, and merged into the model."""

    source: ModelSource
    tokenizer: Any
    settings: TuneSettings
    seed: int
    state: Path
    out: Path
    identity: dict[str, Any]
    shard_on: Any
    progress: Any
    text: Sequence[Sample]
    measured: Measured | None
    trained: list[Any] = field(default_factory=list)  # before, merged; for a hold

    def train(self, stage: Stage, model: Any, weights: Path | None) -> dict[str, Any]:
        """Train one stage; of a model that is sharded only the parts can be used afterwards.

        weights: where those of a model stand that is only laid out.
        """
        run, trainable = self._installed(stage, model, self.shard_on, weights)
        samples: Sequence[Sample] = stage.samples
        beside: list[list[Sample]] = []
        if HOLD in self.settings.terms(stage.name):
            samples, beside = held_samples(samples, stage.told, self.text, self.settings)
        done: dict[str, Any] = run.train(
            samples,
            f"{self.seed}/{stage.name}",
            self.tokenizer,
            self.state / stage.name,
            self.identity,
            self._report(stage),
            logs=self.out.with_name(f"{self.out.name}-logs") / stage.name,
            beside=beside,
            measured=self.measured,
            patience=stage.patience,
        )
        if self.shard_on is None or weights is not None:
            trainable.merge()
        if self.settings.holds:
            self.trained.append(trainable)
        return done

    def again(self, stages: Sequence[Stage]) -> Any:
        """A whole model that has learned what these finished stages taught."""
        release()
        model, _ = _load(self.source, self.settings, self.shard_on)
        for stage in stages:
            run, trainable = self._installed(stage, model, None)
            run.restore(self.state / stage.name, self.identity)
            trainable.merge()
        return model

    def _installed(
        self, stage: Stage, model: Any, shard_on: Any, weights: Path | None = None
    ) -> tuple[Any, Any]:
        torch.manual_seed(self.seed)  # LoRA's start is random, and SHiRA's places
        trainable = stage.install(model, shard_on)
        if self.settings.holds:
            if not hasattr(trainable, "base"):
                raise BadInput(
                    f"‹kl_weight›: what ‹method={self.settings.method}› trains keeps no base; give "
                    "it `keep_base` and `base` (neurorit.tuning.tuned_model.Trainable)"
                )
            trainable.keep_base()
        run = TrainingRun(
            model,
            trainable,
            lambda: stage.rates(trainable),
            stage.steps,
            self.settings,
            shard_on,
            weights,
            stage=stage.name,
            earlier=self.trained,
        )
        return run, trainable

    def _report(self, stage: Stage) -> Any:
        if self.progress is None:
            return None
        return lambda step: self.progress(stage.name, step, stage.steps)


class _Parts:
    """The weights of a run that no process holds whole: the checkpoint's, then those of each stage.

    kinds: the types in which they are written.
    """

    def __init__(
        self,
        source: ModelSource,
        settings: TuneSettings,
        state: Path,
        kinds: Mapping[str, torch.dtype],
    ) -> None:
        assert source.folder is not None
        self.weights = self._folder = source.folder
        self.kinds = kinds
        self._dtype, self._state = settings.dtype, state

    def laid_out(self) -> Any:
        """A model without weights."""
        return laid_out(self._folder, dtype=self._dtype)[0]

    def keep(self, model: Any, stage: str) -> None:
        """Write what a stage has left in the parts: the next one reads it."""
        self.weights = self._state / f"{stage}-weights"
        if rank() == 0:
            shutil.rmtree(self.weights, ignore_errors=True)
            self.weights.mkdir(parents=True)
        write_parts(model, self.weights if rank() == 0 else None, self.kinds)
        wait()


def _load(
    source: ModelSource,
    settings: TuneSettings,
    shard_on: Any,
    in_parts: bool = False,
    *,
    savable: bool = True,
) -> tuple[Any, Any]:
    """The model and its tokenizer; one that is to be sharded need not fit on a device whole.

    in_parts: without its weights, which each process reads for itself.
    """
    device = "cpu" if shard_on is not None else settings.device
    if in_parts and source.folder is not None:
        model, tokenizer = laid_out(source.folder, dtype=settings.dtype)
        tokenizer = source.tokenizer or tokenizer
    else:
        model, tokenizer = source.load(dtype=settings.dtype, device=device)
    if savable:
        make_savable(model)
    return model, tokenizer
