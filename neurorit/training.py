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
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from neurorit.batches import Sample, check_ends, collate, draw_batches
from neurorit.prompts import end_token_id
from neurorit.tune_settings import TuneSettings
from retrieval.artifact import write_text
from retrieval.errors import BadInput

Named = list[tuple[str, nn.Parameter]]
_LOWEST = 0.1  # of the learning rate, at the end
_LOGGED = 10  # steps between logged losses
_MARK = "state.json"


class Trainable(Protocol):
    """What is trained in a model: adapters, everything, or low-rank deltas."""

    def samples(self, evidence: torch.Tensor) -> None:
        """Told before each forward pass: which samples [B] hold evidence."""
        ...

    def merge(self) -> None:
        """Put what was learned into the model's plain weights."""
        ...


class TrainingRun:
    """One stage of training. rates: named parameters with the learning rate of each group.

    Trained parameters are kept in float32 while they learn, whatever the model's type is.
    """

    def __init__(
        self,
        model: Any,
        trainable: Trainable,
        rates: Sequence[tuple[Named, float]],
        steps: int,
        settings: TuneSettings,
    ) -> None:
        self.steps, self.settings = steps, settings
        self._model = _Tuned(model, trainable)
        self._mixed = model.dtype != torch.float32
        self._rates = [(named, rate) for named, rate in rates if named]
        self._named = [pair for named, _ in self._rates for pair in named]
        self._types = {name: parameter.dtype for name, parameter in self._named}
        for _, parameter in self._named:
            parameter.data = parameter.data.float()

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
            trainer._load_from_checkpoint(str(found[0]))
            loss = float(json.loads((state / _MARK).read_text(encoding="utf-8"))["loss"])
        else:
            trainer.train(resume_from_checkpoint=None if found is None else str(found[0]))
            loss = trainer.last_loss
        for name, parameter in self._named:
            parameter.data = parameter.data.to(self._types[name])
        self._model.model.eval()
        return {
            "trained_parameters": sum(parameter.numel() for _, parameter in self._named),
            "steps": self.steps,
            "loss": round(loss, 4),
            "seconds": round(time.perf_counter() - started, 1),
        }

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
        device = self._model.model.device
        reporters = [name for name in settings.report_to.split(",") if name not in ("", "none")]
        arguments = _Arguments(
            output_dir=str(logs if reporters and logs is not None else state),
            max_steps=self.steps,
            per_device_train_batch_size=settings.batch_size,
            gradient_accumulation_steps=settings.accumulation,
            max_grad_norm=settings.max_grad_norm,
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
        if trainer.is_fsdp_enabled:
            raise BadInput(
                "tune: FSDP is not supported yet, since deltas are written into whole weights; "
                "start it with torchrun, or with accelerate's MULTI_GPU"
            )
        trainer.remove_callback(PrinterCallback)
        trainer.prepare(self._rates, batches, lambda part: collate(part, pad), state, identity)
        trainer.warm = max(1, round(settings.warmup * self.steps))
        return trainer


class _Arguments(TrainingArguments):  # type: ignore[misc]
    """The Trainer's, for one device a process: the one that the model is on.

    Left alone, the Trainer moves the model to the first GPU, away from its adapters, and spreads
    every batch over all GPUs it sees by threads, in which hooks and losses do not hold.
    """

    _place: torch.device | None = None

    def place_on(self, device: torch.device) -> None:
        """Name the device; what accelerate calls `cuda` is then that one too."""
        self._place = device
        if device.type == "cuda":
            torch.cuda.set_device(device)

    @property
    def n_gpu(self) -> int:
        return min(1, int(super().n_gpu))

    @property
    def device(self) -> torch.device:
        found: torch.device = super().device
        return self._place or found


class _Tuned(nn.Module):
    """A model with what is trained in it; returns the summed cross-entropy of the responses."""

    def __init__(self, model: Any, trainable: Trainable) -> None:
        super().__init__()
        self.model = model
        self.trainable = trainable
        self.config = model.config

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


class _Trainer(Trainer):  # type: ignore[misc]
    """The Trainer with our batches, rates, loss and saved states."""

    loss_is_scaled_for_ga = True
    warm = 1

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
        from safetensors.torch import save_file

        if not self.args.should_save:
            return
        step = self.state.global_step
        tensors = {f"value/{name}": p.detach().cpu().contiguous() for name, p in self._named}
        for name, parameter in self._named:
            for key, value in self._adamw.state[parameter].items():
                tensors[f"{key}/{name}"] = value.detach().cpu().contiguous()
        folder = self._state_dir / f"step-{step}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "state.safetensors"
        save_file(tensors, path)
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
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
        from safetensors.torch import load_file

        tensors = load_file(Path(resume_from_checkpoint) / "state.safetensors")
        with torch.no_grad():
            for name, parameter in self._named:
                parameter.copy_(tensors[f"value/{name}"])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        from safetensors.torch import load_file

        if checkpoint is None:
            return
        tensors = load_file(Path(checkpoint) / "state.safetensors")
        for name, parameter in self._named:
            # AdamW keeps its step count on the CPU and its moments beside the parameter.
            self._adamw.state[parameter] = {
                "step": tensors[f"step/{name}"],
                **{
                    key: tensors[f"{key}/{name}"].to(parameter.device)
                    for key in ("exp_avg", "exp_avg_sq")
                },
            }
        kept = json.loads((Path(checkpoint) / "scheduler.json").read_text(encoding="utf-8"))
        self.lr_scheduler.load_state_dict({**kept, "lr_lambdas": [None] * len(self._rates)})
        for group, rate in zip(self._adamw.param_groups, kept["_last_lr"], strict=True):
            group["lr"] = rate

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing is drawn while training: batches come from the seed and the step."""


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
