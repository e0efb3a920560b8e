"""One stage of training on the Hugging Face Trainer: a loss on responses only, and saved states.

The Trainer brings accumulation, mixed precision, gradient checkpointing, logging and several
processes (`torchrun`, `accelerate launch`). What it saves is ours: safetensors and JSON, made whole
or not at all, so that a run that was killed goes on and ends in the same weights (to the byte on a
CPU; a GPU sums in no fixed order).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from neurorit.core.atomic_files import sync, write_text
from neurorit.core.errors import NeuroritError
from neurorit.model.distributed import rank, wait
from neurorit.model.memory import FreedMemory
from neurorit.model.precision import autocasts
from neurorit.model.prompts import end_token_id
from neurorit.tuning.fsdp import average, clip, shard
from neurorit.tuning.hold import Measured, end_probability
from neurorit.tuning.resume import (
    TRAINER_FILE,
    Named,
    Saved,
    clear,
    last_saved,
    mark_saved,
    read_log,
    read_moments,
    read_values,
    write_best,
    write_tensors,
)
from neurorit.tuning.samples import Sample, check_ends, collate, draw_batches, draw_parted
from neurorit.tuning.settings import LOSSES, TuneSettings
from neurorit.tuning.tuned_model import ShardedModel, Trainable, TunedModel

_LOGGED = 10  # steps between logged losses
_ENDS_ON_NOISE, _ENDS_ON_EVIDENCE = "ends_on_noise", "ends_on_evidence"
_SELECTIVITY = "selectivity"


class TrainingRun:
    """One stage of training.

    rates: gives named parameters with the learning rate of each group. Trained parameters are kept
    in float32 while they learn, whatever the model's type is. shard_on: shard the model's weights
    over all processes on this device; the model cannot be used for anything else afterwards, and
    what it has learned is read from its saved state (`restore`) into a whole one. weights: the
    checkpoint of a model that is only laid out; what it has learned is then left in its parts.
    stage: its name, for the terms of its loss; earlier: what was trained before, and is merged.
    """

    def __init__(
        self,
        model: Any,
        trainable: Trainable,
        rates: Callable[[], Sequence[tuple[Named, float]]],
        steps: int,
        settings: TuneSettings,
        shard_on: torch.device | None = None,
        weights: Path | None = None,
        *,
        stage: str = "",
        earlier: Sequence[Trainable] = (),
    ) -> None:
        self.steps, self.settings = steps, settings
        self._reads_parts = weights is not None
        self._mixed = autocasts(model, shard_on or model.device, settings.precision)
        losses = [(LOSSES.get(name), weight) for name, weight in settings.terms(stage).items()]
        self._model = TunedModel(model, trainable, shard_on, self._mixed, losses, earlier)
        self._types = {}
        for named, _ in rates():
            for name, parameter in named:
                self._types[name] = parameter.dtype
                parameter.data = parameter.data.float()
        if shard_on is not None:
            shard(model, shard_on, weights)
        self._rates = [(named, rate) for named, rate in rates() if named]
        self._named = [pair for named, _ in self._rates for pair in named]

    def train(
        self,
        samples: Sequence[Sample],
        seed: str,
        tokenizer: Any,
        state: Path,
        identity: dict[str, Any],
        report: Callable[[int], None] | None = None,
        logs: Path | None = None,
        *,
        beside: Sequence[Sequence[Sample]] = (),
        measured: Measured | None = None,
        patience: int = 0,
    ) -> dict[str, Any]:
        """Train; returns trained parameters, steps, final loss, seconds, measured selectivity.

        state: a directory for saved states; one that was made under another `identity` is not used.
        logs: where TensorBoard and others write, when `report_to` names one. beside: of each kind
        `kl_batch` samples come to every batch. measured: what selectivity is measured on; patience:
        after so many measures without a better one training ends, in the best state; 0 for never.
        """
        started = time.perf_counter()
        found = last_saved(state, identity)
        if found is None:
            if rank() == 0:
                clear(state)
            wait()
        trainer = self._trainer(samples, beside, seed, tokenizer, state, identity, report, logs)
        if measured is not None:
            trainer.measure(measured, patience, end_token_id(tokenizer))
        if found is not None and found.ended:
            loss, log = found.loss, read_log(found.folder)
            if self._model.shard_on is None:
                self.restore(state, identity)
            elif self._reads_parts:
                read_values(self._named, found.folder, sharded=True)
        else:
            trainer.train(resume_from_checkpoint=None if found is None else str(found.folder))
            loss, log = trainer.last_loss, trainer.state.log_history
            self._finish()
        measures = _measures(log)
        made: dict[str, Any] = {
            "trained_parameters": sum(parameter.numel() for _, parameter in self._named),
            "steps": measures[-1]["step"] if patience else self.steps,
            "loss": round(loss, 4),
            "seconds": round(time.perf_counter() - started, 1),
        }
        if measured is not None:
            made["measured_on"] = "held-out samples" if measured.apart else "training samples"
            made["selectivity"] = measures
        if patience:
            made["best_step"] = _best(measures)["step"]
        return made

    def restore(self, state: Path, identity: dict[str, Any]) -> None:
        """Take what a finished run has learned from its saved state, in the model's own types."""
        found = last_saved(state, identity)
        if found is None or not found.ended:
            raise NeuroritError(f"{state} holds no finished training; run the command again")
        read_values(self._named, found.folder)
        self._finish()

    def _finish(self) -> None:
        """Back to the model's own types, where it is used further."""
        check_finite(self._named, self.steps)
        if self._model.shard_on is not None:
            return
        for name, parameter in self._named:
            parameter.data = parameter.data.to(self._types[name])
        self._model.model.eval()

    def _batches(self, samples: Sequence[Sample], seed: str, count: int) -> list[list[int]]:
        """Places in `samples`; a stage of one kind has nothing to part."""
        settings, kinds = self.settings, {sample.evidence for sample in samples}
        as_they_come = settings.noise_share is None and settings.noise_order == "mixed"
        if as_they_come or len(kinds) < 2:
            return list(islice(draw_batches(samples, settings.batch_size, seed), count))
        share, order = settings.noise_share, settings.noise_order
        return draw_parted(samples, settings.batch_size, seed, count, share, order)

    def _trainer(
        self,
        samples: Sequence[Sample],
        beside: Sequence[Sequence[Sample]],
        seed: str,
        tokenizer: Any,
        state: Path,
        identity: dict[str, Any],
        report: Callable[[int], None] | None,
        logs: Path | None,
    ) -> _Trainer:
        settings = self.settings
        device = self._model.shard_on or self._model.model.device
        reporters = [name for name in settings.report_to.split(",") if name not in ("", "none")]
        arguments = _Arguments(
            output_dir=str(logs if reporters and logs is not None else state),
            max_steps=self.steps,
            per_device_train_batch_size=settings.batch_size,
            gradient_accumulation_steps=settings.accumulation,
            # What is sharded over processes we clip ourselves, see _Trainer.training_step.
            max_grad_norm=0.0 if self._model.shard_on else settings.max_grad_norm,
            gradient_checkpointing=settings.gradient_checkpointing,
            bf16=self._mixed,
            use_cpu=device.type != "cuda",
            save_strategy="steps",
            save_steps=settings.checkpoint_every,
            logging_steps=_LOGGED,
            logging_nan_inf_filter=False,  # else a loss that is no number is logged as 0
            report_to=reporters or "none",
            ddp_find_unused_parameters=False,
            remove_unused_columns=False,
            disable_tqdm=True,
            log_level="error",
        )
        arguments.place_on(device)
        arguments.sharded = self._model.shard_on is not None
        pad = tokenizer.pad_token_id
        pad = tokenizer.eos_token_id if pad is None else pad
        check_ends(samples, end_token_id(tokenizer), pad)
        count = self.steps * settings.accumulation * arguments.world_size
        batches = self._batches(samples, seed, count)
        pool = list(samples)
        for number, kind in enumerate(beside):
            drawn = islice(draw_batches(kind, settings.kl_batch, f"{seed}/held/{number}"), count)
            for batch, others in zip(batches, drawn, strict=True):
                batch += [len(pool) + place for place in others]
            pool += kind
        trainer = _Trainer(
            model=self._model,
            args=arguments,
            train_dataset=pool,
            callbacks=[
                *([_Steps(report)] if report is not None else []),
                *([_Memory()] if torch.device(device).type == "cpu" else []),
            ],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.final_rate, trainer.second_moment = settings.final_rate, settings.second_moment
        trainer.prepare(self._rates, batches, lambda part: collate(part, pad), state, identity)
        trainer.most_norm, trainer.measure_every = settings.max_grad_norm, settings.measure_every
        trainer.keep_model(self._model, pad)
        trainer.warm = max(1, round(settings.warmup * self.steps))
        return trainer


def check_finite(named: Named, step: int) -> None:
    """Raise NeuroritError where what is trained holds what is no number any more."""
    for name, parameter in named:
        own = getattr(parameter, "to_local", lambda p=parameter: p)()
        if not bool(torch.isfinite(own).all()):
            raise NeuroritError(
                f"training diverged by step {step}: {name} holds what is no number; lower the "
                "learning rate of this stage, or raise `warmup`"
            )


class _Arguments(TrainingArguments):  # type: ignore[misc]
    """The Trainer's, for one device a process: the one that the model is on.

    Left alone, the Trainer moves the model to the first GPU, away from its adapters, and spreads
    every batch over all GPUs it sees by threads, in which hooks and losses do not hold.
    """

    _place: torch.device | None = None
    sharded = False

    def place_on(self, device: torch.device) -> None:
        """Name the device; what accelerate calls `cuda` is then that one too."""
        self._place = device
        if device.type == "cuda":
            torch.cuda.set_device(device)

    @property
    def place_model_on_device(self) -> bool | None:
        """No, where each process holds a part of it on its device already."""
        return False if self.sharded else None

    @property
    def n_gpu(self) -> int:
        return min(1, int(super().n_gpu))

    @property
    def device(self) -> torch.device:
        found: torch.device = super().device
        return self._place or found


class _Trainer(Trainer):  # type: ignore[misc]
    """The Trainer with our batches, rates, loss and saved states."""

    loss_is_scaled_for_ga = True
    warm = 1
    most_norm = 1.0
    measure_every = 1
    patience = 0
    final_rate, second_moment = 0.1, 0.98

    def prepare(
        self,
        rates: Sequence[tuple[Named, float]],
        batches: list[list[int]],
        join: Callable[[list[Sample]], dict[str, torch.Tensor]],
        state: Path,
        identity: dict[str, Any],
    ) -> None:
        """What the constructor cannot be given."""
        self._rates, self._batches, self._join = rates, batches, join
        self._state_dir, self._identity = state, identity
        self._named = [pair for named, _ in rates for pair in named]
        # Weight decay would move weights that a mask holds still. The first steps of stage 1 have a
        # large loss, which a second moment of longer memory would carry through the whole run.
        self._adamw = torch.optim.AdamW(
            [
                {"params": [parameter for _, parameter in named], "lr": rate}
                for named, rate in rates
            ],
            betas=(0.9, self.second_moment),
            weight_decay=0.0,
        )
        # So that response tokens are counted over all accumulated batches, and all processes.
        self.model_accepts_loss_kwargs = True
        self._loss_shifts_labels = False

    @property
    def last_loss(self) -> float:
        """The loss that was logged last."""
        for name in ("loss", "train_loss"):
            logged = [entry[name] for entry in self.state.log_history if name in entry]
            if logged:
                return float(logged[-1])
        return 0.0

    def keep_model(self, tuned: TunedModel, pad: int) -> None:
        """The model as it is, without what the Trainer wraps around it."""
        self._tuned, self._pad = tuned, pad

    def measure(self, samples: Measured, patience: int, end: int) -> None:
        """Measure selectivity while training, and end without a better one for so many measures."""
        self._measured, self._end, self.patience = samples, end, patience
        self.add_callback(_Selectivity(self))

    def take_measure(self) -> None:
        """Log the selectivity of now; where the best state counts and this is it, keep it."""
        device, size = self.args.device, self.args.per_device_train_batch_size
        tuned = self._tuned
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=tuned.mixed):
            noise, evidence = (
                end_probability(tuned.model, samples, self._end, self._pad, size)
                for samples in (self._measured.noise, self._measured.evidence)
            )
        self.log(
            {_ENDS_ON_NOISE: noise, _ENDS_ON_EVIDENCE: evidence, _SELECTIVITY: noise - evidence}
        )
        if self.patience and self.measures_since_best() == 0 and self.args.should_save:
            write_best(self._named, self._state_dir, self.state.global_step)

    def measures_since_best(self) -> int:
        """How many measures came after the best one."""
        measures = _measures(self.state.log_history)
        return len(measures) - 1 - measures.index(_best(measures))

    def take_best(self) -> None:
        """Put the values of the best state into what is trained."""
        wait()  # the first process has written them
        step = _best(_measures(self.state.log_history))["step"]
        read_values(self._named, self._state_dir / f"best-{step}")

    def get_train_dataloader(self) -> Any:
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=self._batches,
            collate_fn=self._join,
            pin_memory=not self.args.use_cpu,
        )
        return self.accelerator.prepare(loader)

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        if isinstance(model, ShardedModel):
            return model
        if self.args.sharded and training:
            return ShardedModel(model)
        return super()._wrap_model(model, training, dataloader)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.args.sharded and self.accelerator.sync_gradients:
            parameters = [parameter for _, parameter in self._named]
            average(parameters)
            clip(parameters, self.most_norm)
        return loss

    def create_optimizer(self, model: Any = None) -> Any:
        self.optimizer = self._adamw
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        def scale(step: int) -> float:
            if step < self.warm:
                return (step + 1) / self.warm
            fall = (step - self.warm) / max(1, num_training_steps - self.warm)
            return 1.0 - (1.0 - self.final_rate) * fall

        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(self._adamw, scale)
        return self.lr_scheduler

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        count = num_items_in_batch
        if count is None:
            count = inputs["labels"].ne(-100).sum()
        # Gradients are averaged over processes, while the count is of all of them.
        return model(**inputs) / count * self.args.world_size

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Parameters, moments and the Trainer's state, then the mark that names them."""
        sharded, step = self.args.sharded, self.state.global_step
        if not (self.args.should_save or sharded):
            return
        check_finite(self._named, step)
        folder = write_tensors(self._named, self._adamw, self._state_dir, step, sharded=sharded)
        if sharded:
            wait()  # the mark is of all parts
        if self.args.should_save:
            self.state.save_to_json(str(folder / TRAINER_FILE))
            kept = self.lr_scheduler.state_dict()
            kept.pop("lr_lambdas")
            write_text(folder / "scheduler.json", json.dumps(kept) + "\n")
            sync(self._state_dir)  # what the mark names, the best state too, is there before it
            ended = step >= self.state.max_steps or self.control.should_training_stop
            mark_saved(Saved(folder, step, self.last_loss, ended), self._identity)
        if sharded:
            wait()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        read_values(self._named, Path(resume_from_checkpoint), sharded=self.args.sharded)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        read_moments(self._named, self._adamw, Path(checkpoint), sharded=self.args.sharded)
        kept = json.loads((Path(checkpoint) / "scheduler.json").read_text(encoding="utf-8"))
        self.lr_scheduler.load_state_dict({**kept, "lr_lambdas": [None] * len(self._rates)})
        for group, rate in zip(self._adamw.param_groups, kept["_last_lr"], strict=True):
            group["lr"] = rate

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing is drawn while training: batches come from the seed and the step."""


class _Selectivity(TrainerCallback):  # type: ignore[misc]
    """Measures at the first step, the last, and between them; ends training that gets no better."""

    def __init__(self, trainer: _Trainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 0:
            self._trainer.take_measure()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        trainer = self._trainer
        last = state.global_step >= state.max_steps
        if not last and state.global_step % trainer.measure_every:
            return
        trainer.take_measure()
        if not trainer.patience:
            return
        if last or trainer.measures_since_best() >= trainer.patience:
            trainer.take_best()
            control.should_training_stop = control.should_save = True


class _Steps(TrainerCallback):  # type: ignore[misc]
    """Reports finished optimizer steps."""

    def __init__(self, report: Callable[[int], None]) -> None:
        self._report = report

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._report(state.global_step)


class _Memory(TrainerCallback):  # type: ignore[misc]
    """Keeps freed memory on a CPU where there is room."""

    def __init__(self) -> None:
        self._freed = FreedMemory()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._freed.mind()


def _measures(log: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """The measures of selectivity in a log, each with its step."""
    names = (_ENDS_ON_NOISE, _ENDS_ON_EVIDENCE, _SELECTIVITY)
    return [
        {"step": entry["step"], **{name: round(entry[name], 4) for name in names}}
        for entry in log
        if _SELECTIVITY in entry
    ]


def _best(measures: Sequence[dict[str, float]]) -> dict[str, float]:
    """The first of the most selective."""
    return max(measures, key=lambda measure: measure[_SELECTIVITY])
