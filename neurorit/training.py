"""The training loop: a loss on responses only, a rate that rises and falls, and saved states.

A state is safetensors and one JSON line; a run that was killed goes on from it and ends in the same
weights, since batches are drawn from the seed and the step. It knows nothing of which parameters
are trained, or why.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional

from neurorit.batches import Batch, Sample, collate, draw_batches
from retrieval.artifact import write_text

Named = list[tuple[str, nn.Parameter]]
_LOWEST = 0.1  # of the learning rate, at the end
_SMOOTH = 0.95


class Trainable(Protocol):
    """What is trained in a model: adapters, everything, or low-rank deltas."""

    def samples(self, evidence: torch.Tensor) -> None:
        """Told before each forward pass: which samples [B] hold evidence."""
        ...

    def merge(self) -> None:
        """Put what was learned into the model's plain weights."""
        ...


class Shape(Protocol):
    """The settings that the loop needs; `tuning.TuneSettings` has them."""

    @property
    def batch_size(self) -> int: ...
    @property
    def warmup(self) -> float: ...
    @property
    def max_grad_norm(self) -> float: ...
    @property
    def checkpoint_every(self) -> int: ...


class TrainingRun:
    """One stage of training. rates: named parameters with the learning rate of each group."""

    def __init__(
        self,
        model: Any,
        trainable: Trainable,
        rates: Sequence[tuple[Named, float]],
        steps: int,
        shape: Shape,
    ) -> None:
        self.model, self.trainable = model, trainable
        self.steps, self.shape = steps, shape
        self._named = [pair for named, _ in rates for pair in named]
        self._rates = [rate for named, rate in rates if named]
        # Weight decay would move weights that a mask holds still.
        self._optimizer = torch.optim.AdamW(
            [
                {"params": [parameter for _, parameter in named], "lr": rate}
                for named, rate in rates
                if named
            ],
            betas=(0.9, 0.98),
            weight_decay=0.0,
        )

    def train(
        self,
        samples: Sequence[Sample],
        seed: str,
        tokenizer: Any,
        state: Path,
        identity: dict[str, Any],
        report: Callable[[int], None] | None = None,
    ) -> dict[str, Any]:
        """Train to the last step; returns trained parameters, steps, final loss and seconds.

        state: a directory for saved states; one that was made under another `identity` is not used.
        """
        first, loss = self._restore(state, identity)
        pad = tokenizer.pad_token_id
        pad = tokenizer.eos_token_id if pad is None else pad
        # A pad that equals the end token is no danger: labels come from the response alone.
        batches = draw_batches(samples, self.shape.batch_size, seed, first)
        parameters = [parameter for _, parameter in self._named]
        started = time.perf_counter()
        self.model.train()
        for step in range(first, self.steps):
            batch = collate(next(batches), pad, self.model.device)
            self._set_rates(step)
            value = self.loss(batch)
            value.backward()
            nn.utils.clip_grad_norm_(parameters, self.shape.max_grad_norm)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            now = float(value.detach())
            loss = now if step == 0 else _SMOOTH * loss + (1 - _SMOOTH) * now
            done = step + 1
            if done % self.shape.checkpoint_every == 0 or done == self.steps:
                self._keep(state, identity, done, loss)
            if report is not None:
                report(done)
        self.model.eval()
        return {
            "trained_parameters": sum(p.numel() for p in parameters),
            "steps": self.steps,
            "loss": round(loss, 4),
            "seconds": round(time.perf_counter() - started, 1),
        }

    def loss(self, batch: Batch) -> torch.Tensor:
        """Mean cross-entropy over the response tokens of the batch; a scalar."""
        self.trainable.samples(batch.evidence)
        learned = batch.labels.shape[1]
        logits = self.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
            logits_to_keep=learned + 1,
        ).logits[:, :-1]
        return functional.cross_entropy(
            logits.flatten(0, 1).float(), batch.labels.flatten(), ignore_index=-100
        )

    def _set_rates(self, step: int) -> None:
        warm = max(1, round(self.shape.warmup * self.steps))
        fall = (step - warm) / max(1, self.steps - warm)
        scale = (step + 1) / warm if step < warm else 1.0 - (1.0 - _LOWEST) * fall
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * scale

    def _keep(self, state: Path, identity: dict[str, Any], step: int, loss: float) -> None:
        """Parameters and moments, then the mark that names them: a torn state is never read."""
        from safetensors.torch import save_file

        state.mkdir(parents=True, exist_ok=True)
        tensors = {f"value/{name}": p.detach().cpu().contiguous() for name, p in self._named}
        for name, parameter in self._named:
            for key, value in self._optimizer.state[parameter].items():
                tensors[f"{key}/{name}"] = value.detach().cpu().contiguous()
        path = state / f"{step}.safetensors"
        save_file(tensors, path)
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
        mark = {"identity": identity, "step": step, "loss": loss}
        write_text(state / "state.json", json.dumps(mark) + "\n")
        for old in state.glob("*.safetensors"):
            if old != path:
                old.unlink()

    def _restore(self, state: Path, identity: dict[str, Any]) -> tuple[int, float]:
        """The step to go on from and the loss there; 0 where there is no state of this run."""
        from safetensors.torch import load_file

        mark = state / "state.json"
        if not mark.is_file():
            return 0, 0.0
        kept = json.loads(mark.read_text(encoding="utf-8"))
        if kept["identity"] != json.loads(json.dumps(identity)):
            return 0, 0.0
        tensors = load_file(state / f"{kept['step']}.safetensors")
        with torch.no_grad():
            for name, parameter in self._named:
                parameter.copy_(tensors[f"value/{name}"])
                # AdamW keeps its step count on the CPU and its moments beside the parameter.
                self._optimizer.state[parameter] = {
                    "step": tensors[f"step/{name}"],
                    **{
                        key: tensors[f"{key}/{name}"].to(parameter.device)
                        for key in ("exp_avg", "exp_avg_sq")
                    },
                }
        return int(kept["step"]), float(kept["loss"])
