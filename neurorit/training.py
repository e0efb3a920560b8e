"""One stage of training on the Hugging Face Trainer: a loss on responses only, and saved states.

The Trainer brings accumulation, mixed precision, gradient checkpointing, logging and several
processes (`torchrun`, `accelerate launch`). What it saves is ours: safetensors and JSON, made whole
or not at all, so that a run that was killed goes on and ends in the same weights.
It knows nothing of which parameters are trained, or why.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from neurorit.batches import Sample, check_ends, collate, draw_batches
from neurorit.processes import wait
from neurorit.prompts import end_token_id
from neurorit.sharding import average, clip, load_parts, load_whole, own_part, save_parts, shard
from neurorit.tune_settings import TuneSettings
from retrieval.artifact import write_text
from retrieval.errors import NeuroritError

Named = list[tuple[str, nn.Parameter]]
_LOWEST = 0.1  # of the learning rate, at the end
_LOGGED = 10  # steps between logged losses
_MARK, _WHOLE = "state.json", "state.safetensors"


class Trainable(Protocol):
    """What is trained in a model: adapters, everything, or low-rank deltas."""

    def samples(self, evidence: torch.Tensor) -> None:
        """Told before each forward pass: which samples [B] hold evidence."""
        ...

    def merge(self) -> None:
        """Put what was learned into the model's plain weights."""
        ...


class TrainingRun:
    """One stage of training.

    rates: gives named parameters with the learning rate of each group. Trained parameters are kept
    in float32 while they learn, whatever the model's type is. spread_on: spread the model's weights
    over all processes on this device; the model cannot be used for anything else afterwards, and
    what it has learned is read from its saved state (`restore`) into a whole one.
    """

    def __init__(
        self,
        model: Any,
        trainable: Trainable,
        rates: Callable[[], Sequence[tuple[Named, float]]],
        steps: int,
        settings: TuneSettings,
        spread_on: torch.device | None = None,
    ) -> None:
        self.steps, self.settings = steps, settings
        self._mixed = model.dtype != torch.float32
        self._model = _Tuned(model, trainable, spread_on, self._mixed)
        self._types = {}
        for named, _ in rates():
            for name, parameter in named:
                self._types[name] = parameter.dtype
                parameter.data = parameter.data.float()
        if spread_on is not None:
            shard(model, spread_on)
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
    ) -> dict[str, Any]:
        """Train to the last step; returns trained parameters, steps, final loss and seconds.

        state: a directory for saved states; one that was made under another `identity` is not used.
        logs: where TensorBoard and others write, when `report_to` names one.
        """
        started = time.perf_counter()
        trainer = self._trainer(samples, seed, tokenizer, state, identity, report, logs)
        found = _saved(state, identity)
        if found is not None and found[1] >= self.steps:
            loss = float(json.loads((state / _MARK).read_text(encoding="utf-8"))["loss"])
            if self._model.spread_on is None:
                self.restore(state, identity)
        else:
            trainer.train(resume_from_checkpoint=None if found is None else str(found[0]))
            loss = trainer.last_loss
            self._finish()
        return {
            "trained_parameters": sum(parameter.numel() for _, parameter in self._named),
            "steps": self.steps,
            "loss": round(loss, 4),
            "seconds": round(time.perf_counter() - started, 1),
        }

    def restore(self, state: Path, identity: dict[str, Any]) -> None:
        """Take what a finished run has learned from its saved state, in the model's own types."""
        found = _saved(state, identity)
        if found is None or found[1] < self.steps:
            raise NeuroritError(f"{state} holds no finished training; run the command again")
        _put_values(self._named, _whole(found[0]))
        self._finish()

    def _finish(self) -> None:
        """Back to the model's own types, where it is used further."""
        if self._model.spread_on is not None:
            return
        for name, parameter in self._named:
            parameter.data = parameter.data.to(self._types[name])
        self._model.model.eval()

    def _trainer(
        self,
        samples: Sequence[Sample],
        seed: str,
        tokenizer: Any,
        state: Path,
        identity: dict[str, Any],
        report: Callable[[int], None] | None,
        logs: Path | None,
    ) -> _Trainer:
        settings = self.settings
        device = self._model.spread_on or self._model.model.device
        reporters = [name for name in settings.report_to.split(",") if name not in ("", "none")]
        arguments = _Arguments(
            output_dir=str(logs if reporters and logs is not None else state),
            max_steps=self.steps,
            per_device_train_batch_size=settings.batch_size,
            gradient_accumulation_steps=settings.accumulation,
            # What is spread over processes we clip ourselves, see _Trainer.training_step.
            max_grad_norm=0.0 if self._model.spread_on else settings.max_grad_norm,
            gradient_checkpointing=settings.gradient_checkpointing,
            bf16=self._mixed,
            use_cpu=device.type != "cuda",
            save_strategy="steps",
            save_steps=settings.checkpoint_every,
            logging_steps=_LOGGED,
            report_to=reporters or "none",
            ddp_find_unused_parameters=False,
            remove_unused_columns=False,
            disable_tqdm=True,
            log_level="error",
        )
        arguments.place_on(device)
        arguments.spread = self._model.spread_on is not None
        pad = tokenizer.pad_token_id
        pad = tokenizer.eos_token_id if pad is None else pad
        check_ends(samples, end_token_id(tokenizer), pad)
        batches = list(
            islice(
                draw_batches(samples, settings.batch_size, seed),
                self.steps * settings.accumulation * arguments.world_size,
            )
        )
        trainer = _Trainer(
            model=self._model,
            args=arguments,
            train_dataset=list(samples),
            callbacks=[_Steps(report)] if report is not None else [],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.prepare(self._rates, batches, lambda part: collate(part, pad), state, identity)
        trainer.most_norm = settings.max_grad_norm
        trainer.warm = max(1, round(settings.warmup * self.steps))
        return trainer


class _Arguments(TrainingArguments):  # type: ignore[misc]
    """The Trainer's, for one device a process: the one that the model is on.

    Left alone, the Trainer moves the model to the first GPU, away from its adapters, and spreads
    every batch over all GPUs it sees by threads, in which hooks and losses do not hold.
    """

    _place: torch.device | None = None
    spread = False

    def place_on(self, device: torch.device) -> None:
        """Name the device; what accelerate calls `cuda` is then that one too."""
        self._place = device
        if device.type == "cuda":
            torch.cuda.set_device(device)

    @property
    def place_model_on_device(self) -> bool | None:
        """No, where each process holds a part of it on its device already."""
        return False if self.spread else None

    @property
    def n_gpu(self) -> int:
        return min(1, int(super().n_gpu))

    @property
    def device(self) -> torch.device:
        found: torch.device = super().device
        return self._place or found


class _Tuned(nn.Module):
    """A model with what is trained in it; returns the summed cross-entropy of the responses."""

    def __init__(
        self, model: Any, trainable: Trainable, spread_on: torch.device | None, mixed: bool
    ) -> None:
        super().__init__()
        self.model = model
        self.trainable = trainable
        self.config = model.config
        self.spread_on, self.mixed = spread_on, mixed

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        labels: torch.Tensor,
        evidence: torch.Tensor,
    ) -> torch.Tensor:
        self.trainable.samples(evidence)
        logits = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=False,
            logits_to_keep=labels.shape[1] + 1,
        ).logits[:, :-1]
        return functional.cross_entropy(
            logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100, reduction="sum"
        )

    def gradient_checkpointing_enable(self, **_: Any) -> None:
        """The Trainer asks for it; re-entrant checkpoints would need inputs with gradients."""
        self.model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )


class _Spread(nn.Module):
    """In the place of accelerate's wrapping, for a model that is spread already."""

    def __init__(self, tuned: _Tuned) -> None:
        super().__init__()
        self.module = tuned

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        device = self.module.spread_on
        assert device is not None
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.module.mixed):
            summed: torch.Tensor = self.module(**inputs)
        return summed


class _Trainer(Trainer):  # type: ignore[misc]
    """The Trainer with our batches, rates, loss and saved states."""

    loss_is_scaled_for_ga = True
    warm = 1
    most_norm = 1.0

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
            betas=(0.9, 0.98),
            weight_decay=0.0,
        )
        # So that response tokens are counted over all accumulated batches, and all processes.
        self.model_accepts_loss_kwargs = True
        self._loss_shifts_labels = False

    @property
    def last_loss(self) -> float:
        """The loss that was logged last."""
        logged = [entry["loss"] for entry in self.state.log_history if "loss" in entry]
        if logged:
            return float(logged[-1])
        return float(self.state.log_history[-1]["train_loss"]) if self.state.log_history else 0.0

    def get_train_dataloader(self) -> Any:
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=self._batches,
            collate_fn=self._join,
            pin_memory=not self.args.use_cpu,
        )
        return self.accelerator.prepare(loader)

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        if isinstance(model, _Spread):
            return model
        if self.args.spread and training:
            return _Spread(model)
        return super()._wrap_model(model, training, dataloader)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.args.spread and self.accelerator.sync_gradients:
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
            return 1.0 - (1.0 - _LOWEST) * fall

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
        spread = self.args.spread
        if not (self.args.should_save or spread):
            return
        step = self.state.global_step
        tensors = {f"value/{name}": p.detach() for name, p in self._named}
        for name, parameter in self._named:
            for key, value in self._adamw.state[parameter].items():
                tensors[f"{key}/{name}"] = value.detach()
        folder = self._state_dir / f"step-{step}"
        folder.mkdir(parents=True, exist_ok=True)
        path = save_parts(tensors, folder) if spread else _save_whole(tensors, folder)
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
        if spread:
            wait()  # the mark is of all parts
        if self.args.should_save:
            self._mark(folder, step)
        if spread:
            wait()

    def _mark(self, folder: Path, step: int) -> None:
        self.state.save_to_json(str(folder / "trainer_state.json"))
        scheduler = {
            key: value
            for key, value in self.lr_scheduler.state_dict().items()
            if key != "lr_lambdas"
        }
        write_text(folder / "scheduler.json", json.dumps(scheduler) + "\n")
        mark = {"identity": self._identity, "step": step, "loss": self.last_loss}
        write_text(self._state_dir / _MARK, json.dumps(mark) + "\n")
        for old in self._state_dir.glob("step-*"):
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        _put_values(self._named, self._tensors(resume_from_checkpoint))

    def _tensors(self, checkpoint: str) -> dict[str, torch.Tensor]:
        return load_parts(Path(checkpoint)) if self.args.spread else _whole(Path(checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        tensors = self._tensors(checkpoint)
        for name, parameter in self._named:
            # AdamW keeps its step count on the CPU and its moments beside the parameter.
            moments = {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
            for key, moment in moments.items():
                own_part(moment).copy_(tensors[f"{key}/{name}"])
            self._adamw.state[parameter] = {"step": tensors[f"step/{name}"], **moments}
        kept = json.loads((Path(checkpoint) / "scheduler.json").read_text(encoding="utf-8"))
        self.lr_scheduler.load_state_dict({**kept, "lr_lambdas": [None] * len(self._rates)})
        for group, rate in zip(self._adamw.param_groups, kept["_last_lr"], strict=True):
            group["lr"] = rate

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing is drawn while training: batches come from the seed and the step."""


def _save_whole(tensors: dict[str, torch.Tensor], folder: Path) -> Path:
    from safetensors.torch import save_file

    path = folder / _WHOLE
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)
    return path


def _whole(folder: Path) -> dict[str, torch.Tensor]:
    """A saved state's tensors, also where processes wrote parts of them."""
    from safetensors.torch import load_file

    path = folder / _WHOLE
    return load_file(path) if path.is_file() else load_whole(folder)


@torch.no_grad()
def _put_values(named: Named, tensors: Mapping[str, torch.Tensor]) -> None:
    for name, parameter in named:
        own_part(parameter).copy_(tensors[f"value/{name}"])


class _Steps(TrainerCallback):  # type: ignore[misc]
    """Reports finished optimizer steps."""

    def __init__(self, report: Callable[[int], None]) -> None:
        self._report = report

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._report(state.global_step)


def _saved(state: Path, identity: dict[str, Any]) -> tuple[Path, int] | None:
    """The saved state of this run and its step; None where there is none."""
    mark = state / _MARK
    if not mark.is_file():
        return None
    kept = json.loads(mark.read_text(encoding="utf-8"))
    if kept["identity"] != json.loads(json.dumps(identity)):
        return None
    return state / f"step-{kept['step']}", int(kept["step"])
